"""Choosing files: names as they really stand in repositories, without any hub."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.hub.aliases import ALIASES, is_for_chat, resolve
from powerinfer_cli.hub.choice import Wish, choose, find_models, is_safe, size_text
from powerinfer_cli.hub.request import parse_spec

STATISTICS = [f"activation/activation_{n}.pt" for n in (0, 1, 10, 2)]
BAMBOO = [
    ".gitattributes",
    "README.md",
    "bamboo-7b-v0.1.Q4_0.gguf",
    "bamboo-7b-v0.1.Q4_0.powerinfer.gguf",
    "bamboo-7b-v0.1.gguf",
    "bamboo-7b-v0.1.powerinfer.gguf",
    "config.json",
    *STATISTICS,
]
PROSPARSE = ["README.md", "prosparse-llama-2-7b-clip15.gguf", "prosparse-llama-2-7b.gguf", *STATISTICS]
RELU_70B = ["config.json", "llama-70b-relu.q4.powerinfer.gguf", *STATISTICS]
PLAIN = [
    "model-BF16.gguf",
    "model-IQ4_NL.gguf",
    "model-IQ4_XS.gguf",
    "model-Q4_K_M.gguf",
    "model-Q4_K_S.gguf",
    "model-Q8_0.gguf",
    "model-UD-Q4_K_XL.gguf",
    "model-f16.gguf",
    "mmproj-model-f16.gguf",
    "model.imatrix.gguf",
]
SPLIT = [
    *(f"Q6_K/big-Q6_K-0000{n}-of-00003.gguf" for n in (3, 1, 2)),
    *(f"big-q8_0-0000{n}-of-00002.gguf" for n in (1, 2)),
    "Q6_K/activation/activation_0.pt",
    "activation/activation_0.pt",
]


def chosen(files: list[str], **wish: object) -> list[str]:
    return list(choose("o/n", dict.fromkeys(files, 5), Wish(**wish)).files)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "quant", "weights"),
    [
        (BAMBOO, "q4", "bamboo-7b-v0.1.Q4_0.powerinfer.gguf"),
        (BAMBOO, "Q4_0", "bamboo-7b-v0.1.Q4_0.powerinfer.gguf"),
        (BAMBOO, "f16", "bamboo-7b-v0.1.powerinfer.gguf"),
        (BAMBOO, "FP16", "bamboo-7b-v0.1.powerinfer.gguf"),
        (RELU_70B, "q4", "llama-70b-relu.q4.powerinfer.gguf"),
        (RELU_70B, None, "llama-70b-relu.q4.powerinfer.gguf"),
    ],
)
def test_powerinfer_weights_come_with_their_statistics(files: list[str], quant: str | None, weights: str) -> None:
    assert chosen(files, quant=quant) == [weights, *STATISTICS]


@pytest.mark.parametrize(
    ("quant", "weights"),
    [
        ("Q4_K_M", "model-Q4_K_M.gguf"),
        ("q4_k_m", "model-Q4_K_M.gguf"),
        ("q4_k_xl", "model-UD-Q4_K_XL.gguf"),
        ("UD-Q4_K_XL", "model-UD-Q4_K_XL.gguf"),
        ("q8", "model-Q8_0.gguf"),
        ("f16", "model-f16.gguf"),
        ("bf16", "model-BF16.gguf"),
        ("IQ4_XS", "model-IQ4_XS.gguf"),
    ],
)
def test_any_quant_of_a_plain_repository(quant: str, weights: str) -> None:
    assert chosen(PLAIN, quant=quant) == [weights]


def test_several_choices_are_one_line_with_sizes() -> None:
    with pytest.raises(PowerInferError) as error:
        choose("o/n", {name: 4_680_000_000 if "Q4" in name else 16_000_000_000 for name in BAMBOO}, Wish())
    assert str(error.value) == "o/n holds 2 models, choose one with --quant or o/n:QUANT: Q4_0 (4.68 GB), F16 (16 GB)"
    with pytest.raises(
        PowerInferError, match=r"choose one with --quant or o/n:QUANT: Q4_K_M \(5 bytes\), Q4_K_S .*, Q4_K_XL"
    ):
        chosen(PLAIN, quant="q4")


def test_names_without_quants_are_chosen_by_glob() -> None:
    message = r"choose one with --include: prosparse-llama-2-7b-clip15.gguf \(5 bytes\), prosparse-llama-2-7b.gguf"
    with pytest.raises(PowerInferError, match=message):
        chosen(PROSPARSE)
    assert chosen(PROSPARSE, include=("*clip15*",)) == ["prosparse-llama-2-7b-clip15.gguf", *STATISTICS]
    assert chosen(PROSPARSE, exclude=("*clip15*",)) == ["prosparse-llama-2-7b.gguf", *STATISTICS]


def test_an_alias_knows_the_usual_file() -> None:
    repo, default = resolve("ProSparse-llama-2-7B")
    assert repo == "PowerInfer/prosparse-llama-2-7b-gguf"
    for quant in (None, "f16"):
        assert chosen(PROSPARSE, default=default, quant=quant) == ["prosparse-llama-2-7b.gguf", *STATISTICS]
    assert resolve(repo) == (repo, default)


@pytest.mark.parametrize(
    ("name", "file", "others"),
    [
        ("smollm2-135m", "SmolLM2-135M-Instruct-Q4_K_M.gguf", ["SmolLM2-135M-Instruct-Q8_0.gguf"]),
        ("smollm2-360m", "smollm2-360m-instruct-q8_0.gguf", []),
        ("qwen2.5-0.5b", "qwen2.5-0.5b-instruct-q4_k_m.gguf", ["qwen2.5-0.5b-instruct-q8_0.gguf"]),
        ("qwen3-0.6b", "Qwen3-0.6B-Q8_0.gguf", []),
    ],
)
def test_a_small_chat_model_is_one_command_away(name: str, file: str, others: list[str]) -> None:
    repo, default = resolve(name)
    assert is_for_chat(repo)
    assert chosen([file, *others], default=default) == [file]
    if others:
        assert chosen([file, *others], default=default, quant="q8_0") == others


def test_fallbacks_decide_only_when_nothing_was_said() -> None:
    fallbacks = ("Q4_K_M", "Q4_0", "Q4")
    assert chosen(PLAIN, fallbacks=fallbacks) == ["model-Q4_K_M.gguf"]
    assert chosen(BAMBOO, fallbacks=fallbacks) == ["bamboo-7b-v0.1.Q4_0.powerinfer.gguf", *STATISTICS]
    with pytest.raises(PowerInferError, match="choose one with --quant"):
        chosen(PLAIN, fallbacks=fallbacks, quant="q4")


def test_split_files_are_one_model_in_part_order() -> None:
    models = find_models(SPLIT)
    assert [model.quant for model in models] == ["Q6_K", "Q8_0"]
    parts = [f"Q6_K/big-Q6_K-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert chosen(SPLIT, quant="q6_k") == [*parts, "Q6_K/activation/activation_0.pt"]
    assert chosen(SPLIT, include=("*00002-of-00003*",)) == [*parts, "Q6_K/activation/activation_0.pt"]
    assert chosen(SPLIT, quant="q8_0")[2:] == ["activation/activation_0.pt"]


def test_a_split_file_without_all_parts_is_refused() -> None:
    with pytest.raises(PowerInferError, match=r"o/n lacks 2 of the parts of big-00002-of-00003\.gguf"):
        chosen(["big-00002-of-00003.gguf"])


def test_include_takes_all_that_matches_and_exclude_wins() -> None:
    assert chosen(BAMBOO, include=("*.json", "README.md")) == ["README.md", "config.json"]
    assert chosen(BAMBOO, include=("activation/",)) == STATISTICS
    both = ["bamboo-7b-v0.1.Q4_0.gguf", "bamboo-7b-v0.1.Q4_0.powerinfer.gguf"]
    assert chosen(BAMBOO, include=("*Q4_0*",), exclude=("activation/*",)) == both
    assert chosen(BAMBOO, include=("*",), quant="q4", exclude=("*.pt", ".*", "*.md")) == [*both, "config.json"]
    with pytest.raises(PowerInferError, match=r"no file of o/n matches --include \*\.bin"):
        chosen(BAMBOO, include=("*.bin",))


@pytest.mark.parametrize("wish", [{"quant": "q5"}, {"include": ("*",), "quant": "q5"}, {"exclude": ("*.gguf",)}])
def test_what_matches_nothing_is_told_with_what_is_there(wish: dict[str, object]) -> None:
    with pytest.raises(PowerInferError, match=r"no model of o/n matches; it holds bamboo-7b-v0.1.Q4_0.gguf \(5 bytes"):
        chosen(BAMBOO, **wish)


def test_a_repository_without_gguf() -> None:
    with pytest.raises(PowerInferError, match="o/n holds no GGUF file"):
        chosen(["model.safetensors", "mmproj.gguf"])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/./b",
        "a//b",
        "a/",
        "..",
        "a\\..\\x",
        "C:/x",
        "a\nb",
        "a\x1b[2Jb",
        "\x00",
        "\ud800.gguf",
        ".powerinfer-download.json",
    ],
)
def test_unsafe_names(name: str) -> None:
    assert not is_safe(name)


@given(st.text(max_size=20) | st.lists(st.sampled_from(["..", ".", "", "a", "\\", "C:", "..a"])).map("/".join))
def test_a_safe_name_stays_in_its_folder(name: str) -> None:
    if is_safe(name):
        root = Path("/models/here")
        assert (root / name).is_relative_to(root)
        assert ".." not in (root / name).parts


def test_aliases_and_specs() -> None:
    small = ["smollm2-135m", "smollm2-360m", "qwen2.5-0.5b", "qwen3-0.6b"]
    wanted = "bamboo-7b bamboo-7b-dpo prosparse-llama-2-7b prosparse-llama-2-13b relullama-7b relullama-13b"
    assert list(ALIASES) == [*small, *wanted.split(), "relullama-70b", "relufalcon-40b"]
    assert parse_spec("bamboo-7b:q4") == ("PowerInfer/Bamboo-base-v0.1-gguf", "q4", None)
    assert parse_spec("o/n:Q4_K_M") == ("o/n", "Q4_K_M", None)
    with pytest.raises(PowerInferError, match=r"neither an alias nor OWNER/NAME \(did you mean bamboo-7b\?\)"):
        parse_spec("bambo-7b")
    for spec in ("", ":q4", "o/n:"):
        with pytest.raises(UsageError):
            parse_spec(spec)
    for spec in ("o/..", "../n", "o/n/m", "o/n?x", "https://huggingface.co"):
        with pytest.raises(PowerInferError):
            parse_spec(spec)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_600, "1 MB"),
        (4_683_000_000, "4.68 GB"),
        (42_200_000_000, "42.2 GB"),
        (5 * 10**18, "5,000,000 TB"),
    ],
)
def test_sizes_read_as_on_the_hub(size: int, text: str) -> None:
    assert size_text(size) == text
