"""`powerinfer quantize` as it is called."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType, open_gguf, write_gguf
from tests.helpers.main_cli import powerinfer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tensors = [
        ("blk.0.attn_v.weight", np.ones((8, 64), np.float32), GGMLType.F16),
        ("output.weight", np.ones((8, 40), np.float32), GGMLType.F16),
    ]
    path = tmp_path / "model.gguf"
    write_gguf(
        path, arch="llama", metadata={"llama.block_count": 1, "general.file_type": 1}, tensors=tensors, sparse=False
    )
    return path


def test_words_as_llama_quantize_takes_them(model: Path) -> None:
    out = model.with_name("ggml-model-Q4_K_M.gguf")
    done = powerinfer("quantize", str(model), "q4_k", "2", "--tensor-type", "attn_v=q5_1", "-v")
    assert (done.code, done.out) == (0, f"{out}\n")
    assert "blk.0.attn_v.weight: 8 x 64, F16 to Q5_1" in done.err
    assert "1 tensors are F16 for Q8_0, whose blocks do not divide rows of 40" in done.err
    assert "become" in done.err
    with open_gguf(out) as made:
        assert [one.type for one in made.tensors.values()] == [GGMLType.Q5_1, GGMLType.F16]


@pytest.mark.parametrize(
    ("words", "name", "file_type", "kinds"),
    [
        (["7", "2"], "Q8_0", 7, ["Q8_0", "F16"]),
        (["Q5_0", "2"], "Q5_0", 8, ["Q5_0", "F16"]),  # two threads, not the type of that number
        (["copy"], "COPY", 1, ["F16", "F16"]),
        (["COPY", "--tensor-type", "attn_v=f32"], "COPY", 1, ["F32", "F16"]),
    ],
)
def test_types_by_number_and_copies(model: Path, words: list[str], name: str, file_type: int, kinds: list[str]) -> None:
    done = powerinfer("quantize", str(model), *words)
    out = model.with_name(f"ggml-model-{name}.gguf")
    assert (done.code, done.out) == (0, f"{out}\n")
    with open_gguf(out) as made:
        assert [one.type.name for one in made.tensors.values()] == kinds
        assert made.get("general.file_type", int) == file_type


def test_a_dry_run_writes_nothing(model: Path) -> None:
    done = powerinfer("quantize", str(model), "Q8_0", "--dry-run")
    assert (done.code, done.out) == (0, "")
    assert "bits a weight" in done.err
    assert [path.name for path in model.parent.iterdir()] == [model.name]


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["M"], 2, "what becomes of which file?"),
        (["M", "Q9_0"], 2, "there is no type 'Q9_0'"),
        (["M", "o.gguf", "Q8_0", "x"], 2, "a number of threads"),
        (["M", "o.gguf", "Q8_0", "1", "2"], 2, "unexpected '2'"),
        (["none.gguf", "o.gguf", "Q8_0"], 1, "none.gguf: cannot be opened"),
        (["M", "M", "Q8_0"], 1, "is the input itself"),
        (["M", "M", "Q8_0", "--dry-run"], 1, "is the input itself"),
        (["M", "COPY", "--pure"], 2, "COPY names none"),
        (["M", "4"], 2, "there is no type '4'"),
        (["M", "Q8_0", "--tensor-type", "attn"], 2, "a pattern and a type"),
        (["M", "Q8_0", "--tensor-type", "(=q4_0"], 2, "is no pattern"),
        (["M", "Q8_0", "--output-tensor-type", "q8_k"], 2, "there is no type 'q8_k' to write"),
        (["M", "Q8_0", "--include-weights", "a"], 2, "--imatrix FILE, which is missing"),
        (["M", "/proc/none/o.gguf", "Q8_0"], 1, "cannot be written"),
    ],
)
def test_refused(model: Path, words: list[str], code: int, reason: str) -> None:
    done = powerinfer("quantize", *(str(model) if word == "M" else word for word in words))
    assert done.code == code
    assert reason in done.err
    assert done.err.count("error:") == 1
    assert len(list(model.parent.iterdir())) == 1


def test_a_name_that_would_steer_a_terminal(tmp_path: Path) -> None:
    tensors = [("a\x1b[2J\n.weight", np.full((2, 32), np.inf, np.float32), GGMLType.F32)]
    path = tmp_path / "model.gguf"
    write_gguf(path, arch="llama", metadata={}, tensors=tensors, sparse=False)
    done = powerinfer("quantize", str(path), "Q8_0", "-v")
    assert done.code == 1
    assert all(line.isprintable() for line in done.err.split("\n"))
    assert done.err.count(r"a\x1b[2J\n.weight: ") == 2
