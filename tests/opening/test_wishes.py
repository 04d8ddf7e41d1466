"""Keywords of `open_model` and of `generate`: each is honoured, and a mistake is one line that names it."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli import OpenModel, PowerInferError, open_model
from powerinfer_cli.drafting import DraftOptions, SpecType
from powerinfer_cli.errors import UsageError
from powerinfer_cli.opening import PlacementWishes
from powerinfer_cli.opening.context import Context, reusable
from powerinfer_cli.opening.sampling_wishes import SamplingWishes, wanted
from powerinfer_cli.opening.wishes import DraftWishes, ModelWishes, draft_wishes, logged, with_wishes
from powerinfer_cli.runtime import EngineOptions
from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.sampling.forms import Form
from tests.helpers.families import PROMPT, tiny_family

GIB = 1 << 30

RUNNING = [name for name in ModelWishes.__annotations__ if name not in DraftWishes.__annotations__]
MODEL: dict[str, Any] = {
    "n_ctx": 7,
    "n_batch": 6,
    "n_ubatch": 5,
    "n_threads": 3,
    "n_threads_batch": 2,
    "type_k": "f32",
    "type_v": "q8_0",
    "repack": False,
    "use_mlock": True,
    "swa_full": True,
    "all_active": True,
    "reference": True,
    "vram_budget": [8, 0.5],
    "n_gpu_layers": -1,
    "main_gpu": 1,
    "tensor_split": [3, 1],
    "device": "cpu",
    "reset_gpu_index": True,
    "disable_gpu_index": True,
    "cpu_moe": True,
    "n_cpu_moe": 2,
    "override_tensor": ("exps=cpu", "output=gpu"),
    "adaptive": "auto",
    "offload_kqv": False,
}
SAMPLING: dict[str, Any] = {
    "max_tokens": 5,
    "stop": "x",
    "seed": 4,
    "temperature": 1,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.1,
    "typical_p": 0.6,
    "tfs_z": 0.7,
    "top_n_sigma": 2,
    "min_keep": 2,
    "xtc_probability": 0.3,
    "xtc_threshold": 0.2,
    "dynatemp_range": 0.4,
    "dynatemp_exponent": 2,
    "repeat_penalty": 1.1,
    "repeat_last_n": 32,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.3,
    "dry_multiplier": 0.8,
    "dry_base": 2,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 16,
    "dry_sequence_breakers": ["\n"],
    "adaptive_target": 0.5,
    "adaptive_decay": 0.5,
    "mirostat_mode": 1,
    "mirostat_tau": 4,
    "mirostat_eta": 0.2,
    "logit_bias": {"3": 1, 4: -2.5},
    "ignore_eos": True,
    "samplers": "top_k;temperature",
    "grammar": 'root ::= "a"',
    "json_schema": {"type": "object"},
    "response_format": {"type": "json_object"},
}


@pytest.mark.parametrize(
    "name", [name for name in ModelWishes.__annotations__ if name not in DraftWishes.__annotations__]
)
def test_every_keyword_changes_how_a_model_is_opened(name: str) -> None:
    plain = with_wishes(EngineOptions(), PlacementWishes(), {})
    assert plain == (EngineOptions(), PlacementWishes())
    options, placement = with_wishes(*plain, {name: MODEL[name]})
    changed = {
        field.name: getattr(new, field.name)
        for new, old in zip((options, placement), plain, strict=True)
        for field in fields(new)
        if getattr(new, field.name) != getattr(old, field.name)
    }
    given = {"vram_budget": (8 * GIB, GIB // 2), "tensor_split": (3.0, 1.0)}.get(name, MODEL[name])
    assert list(changed.values()) == [given]
    none_is_plain = "None" in str(ModelWishes.__annotations__[name])
    if none_is_plain:
        assert with_wishes(options, placement, {name: None}) == plain


def test_every_keyword_changes_how_tokens_are_drafted() -> None:
    plain, rest = draft_wishes({"n_ctx": 5, "spec_type": "ngram"})
    assert (plain, rest) == (DraftOptions(SpecType.NGRAM), {"n_ctx": 5})
    assert plain is not None
    limits = {"draft_max": 3, "draft_min": 1}
    grams = {"spec_type": "ngram-simple", **limits, **dict.fromkeys(("spec_ngram_size_n", "spec_ngram_size_m"), 1)}
    models = {"spec_type": "draft", "model_draft": "x", **limits, "n_gpu_layers_draft": 1, "n_ctx_draft": 1}
    same = {f.name for f in fields(plain)}
    for numbers in (grams | {"spec_ngram_min_hits": 2}, models | {"draft_p_min": 0.25}):
        changed, _ = draft_wishes(numbers)
        assert changed is not None
        same &= {name for name in same if getattr(plain, name) == getattr(changed, name)}
    assert not same
    assert draft_wishes({"model_draft": "x"})[0] == DraftOptions(SpecType.MODEL, Path("x"))


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"spec_type": "ngram", "draft_max": 0}, "--draft-max must be 1 to 64, got 0"),
        ({"spec_type": "ngram", "draft_max": 10_000}, "--draft-max must be 1 to 64, got 10000"),
        ({"spec_type": "ngram", "draft_max": 2, "draft_min": 3}, "--draft-min 3 is more than --draft-max 2"),
        ({"spec_type": "ngram", "draft_p_min": "a"}, "draft_p_min must be a number or None, got 'a'"),
        ({"spec_type": "eagle"}, "--spec-type must be one of none, ngram, draft, mtp, got 'eagle'"),
        ({"spec_type": "draft"}, "--spec-type draft needs a draft model (-md FILE)"),
        ({"spec_type": "ngram", "model_draft": "x"}, "-md has no effect with --spec-type ngram"),
        ({"draft_max": 3}, "--draft-max needs somebody who drafts"),
        ({"spec_type": "ngram", "n_ctx_draft": 9}, "without effect where --spec-type is ngram: -cd"),
        (
            {"model_draft": "x", "spec_ngram_size_n": 2},
            "without effect where --spec-type is draft: --spec-ngram-size-n",
        ),
    ],
    ids=str,
)
def test_drafts_that_cannot_be(wishes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        draft_wishes(wishes)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("name", SamplingWishes.__annotations__)
def test_every_keyword_changes_how_a_text_is_written(name: str) -> None:
    plain = wanted("generate", {})
    assert plain.sampler == SamplerOptions()
    assert (plain.max_tokens, plain.stop, plain.form) == (None, (), Form())
    assert wanted("generate", {name: SAMPLING[name]}) != plain


def test_spellings_of_the_same() -> None:
    assert with_wishes(EngineOptions(), PlacementWishes(), {"vram_budget": 8})[1].vram_budget == (8 * GIB,)
    for one, other in (
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"seed": None}, {}),
        ({"max_tokens": -1}, {"max_tokens": None}),
        ({"stop": None}, {}),
        ({"logit_bias": {"3": 1}}, {"logit_bias": {3: 1.0}}),
        ({"samplers": "top-k;temp"}, {"samplers": ["top_k", "temperature"]}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_schema": {}}),
    ):
        assert wanted("generate", one) == wanted("generate", other)


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"n_ctx": "512"}, "n_ctx must be a whole number, got '512'"),
        ({"n_ctx": -1}, "n_ctx is -1, but must be at least 0"),
        ({"n_threads": 1.5}, "n_threads must be a whole number or None, got 1.5"),
        ({"n_threads": 0}, "n_threads is 0, but must be at least 1"),
        ({"type_k": "q3"}, "type_k is q3, but must be one of f32, f16, q8_0"),
        ({"vram_budget": "8"}, "vram_budget must be a number, or one for each GPU, got '8'"),
        ({"vram_budget": -1}, "a budget of -1 GiB makes no sense"),
        ({"vram_budget": float("nan")}, "a budget of nan GiB makes no sense"),
        ({"vram_budget": []}, "vram_budget must be a number"),
        ({"tensor_split": [0, 0]}, "tensor_split: must be numbers from 0 on"),
        ({"n_gpu_layers": -2}, "n_gpu_layers must be -1 or more, got -2"),
        ({"main_gpu": -1}, "main_gpu must be 0 or more, got -1"),
        ({"adaptive": "yes"}, 'adaptive must be "on", "off" or "auto", got \'yes\''),
        ({"device": "tpu"}, 'device must be "cuda", "mps" or "cpu", got \'tpu\''),
        ({"reference": True, "vram_budget": 1}, "--reference excludes --vram-budget"),
    ],
)
def test_models_that_cannot_be_opened_so(wishes: dict[str, Any], says: str) -> None:
    with pytest.raises(PowerInferError) as caught:
        open_model(**wishes)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def model() -> OpenModel:
    return open_model(n_ctx=64, n_ubatch=4, n_threads=1)


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"temperature": -1}, "temperature must be 0 or more, got -1"),
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        ({"temperature": None}, "temperature must be a number, got None"),
        ({"temperature": float("nan")}, "temperature must be a finite number, got nan"),
        ({"top_p": 2}, "top_p must be from 0 to 1, got 2"),
        ({"top_k": 1.5}, "top_k must be a whole number, got 1.5"),
        ({"repeat_penalty": 0}, "repeat_penalty must be greater than 0, got 0"),
        ({"mirostat_mode": 3}, "mirostat_mode must be from 0 to 2, got 3"),
        ({"seed": "x"}, "seed must be a whole number, got 'x'"),
        ({"max_tokens": -5}, "max_tokens must be a number from 0 on, or None for no limit, got -5"),
        ({"max_tokens": 1.5}, "max_tokens must be a number from 0 on"),
        ({"stop": [1]}, "stop must be a text or a list of texts, got [1]"),
        ({"samplers": "best"}, "unknown sampler 'best'"),
        ({"logit_bias": {"a": 1}}, "logit_bias must be biases by token id"),
        ({"logit_bias": {10**6: 1}}, "token 1000000 is outside the vocabulary"),
        ({"grammar": "root = 1"}, "grammar"),
        ({"grammar": 3}, "grammar must be a text in GBNF, got 3"),
        ({"json_schema": []}, "json_schema: a schema is a JSON object, got []"),
        ({"json_schema": {"type": "thing"}}, "thing"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, "grammar and json_schema exclude each other"),
        ({"response_format": {"type": "xml"}}, 'response_format must be {"type": "text"}'),
        ({"response_format": "json"}, "response_format must be"),
    ],
)
def test_texts_that_cannot_be_written_so(model: OpenModel, wishes: dict[str, Any], says: str) -> None:
    with pytest.raises(PowerInferError) as caught:
        model.generate("Once", **wishes)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("Hello", "messages must be a list"),
        ({"role": "user", "content": "x"}, "messages must be a list"),
        (["Hello"], "messages[0] must be a message"),
        ([{"content": "x"}], "messages[0] must be a message"),
        ([{"role": "user", "content": 3}], "messages[0]: content must be a text, or parts of type text, got 3"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0]: content must be a text, or parts"),
        ([{"role": "user", "content": "word " * 70}], "but the context holds 64: shorten it, or give a larger n_ctx"),
    ],
)
def test_conversations_that_cannot_be_answered(model: OpenModel, messages: Any, says: str) -> None:
    with pytest.raises(PowerInferError) as caught:
        model.chat(messages)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prompts_and_vectors_that_cannot_be(model: OpenModel) -> None:
    for prompt in (3, [1.5], ["a"], None):
        with pytest.raises(PowerInferError, match="a prompt is a text or a list of token ids"):
            model.generate(prompt)  # type: ignore[arg-type]
    with pytest.raises(PowerInferError, match="token id 1000000 is not in the vocabulary"):
        model.generate([10**6], max_tokens=1).read()
    with pytest.raises(PowerInferError, match="pooling must be one of mean, cls, last, got 'max'"):
        model.embed("x", pooling="max")
    with pytest.raises(PowerInferError, match="a text or a list of texts"):
        model.embed([1])  # type: ignore[list-item]
    with pytest.raises(PowerInferError, match="do not fit the context of 64"):
        model.embed("word " * 70)
    assert model.generate("", max_tokens=3, temperature=0).read().completion_tokens == 3


def test_what_takes_a_while_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    events = logged()
    with caplog.at_level("INFO", "powerinfer_cli"):
        for done in range(3):
            events.progress("compiling kernels (once)", done, 3)
        events.note("warning: odd")
        events.note("plain")
    told = [(record.levelname, record.message) for record in caplog.records]
    assert told == [("INFO", "compiling kernels (once)"), ("WARNING", "warning: odd"), ("INFO", "plain")]


def test_names_that_are_none() -> None:
    with pytest.raises(TypeError, match=r"open_model\(\) got an unexpected keyword argument 'n_context'"):
        open_model(n_context=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"chat\(\) got an unexpected keyword argument 'temp'"):
        wanted("chat", {"temp": 1})


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    for path in (tmp_path / "missing.gguf", str(tmp_path / "text.gguf"), tmp_path):
        with pytest.raises(PowerInferError, match=str(tmp_path)) as caught:
            open_model(path)
        assert "\n" not in str(caught.value)


def test_what_is_taken_from_the_last_prompt(model: OpenModel) -> None:
    """To the bit as without, for each length before and after: batches here have four tokens."""
    ids = model.tokenizer.encode("Once upon a time there was a little bear who liked to swim.")[:14]
    other = [ids[0], *ids[2:]]
    context = model._context
    alone = []
    for n in range(1, len(ids) + 1):
        context._n_read = 0
        alone.append(context.read(None, ids[:n]).copy())
    taken = 0
    for before in range(1, len(ids) + 1):
        for n in range(1, len(ids) + 1):
            context.read(None, ids[:before])
            taken += reusable(ids[: context._n_read], ids[:n], 4)
            assert (context.read(None, ids[:n]) == alone[n - 1]).all(), (before, n)
        context.read(None, other[:before])
        assert (context.read(None, ids[:before]) == alone[before - 1]).all()
    assert taken > 14 * 14 * 2


@pytest.mark.parametrize("tails", [(), (9, 4), (5, 4)])
def test_what_is_taken_where_states_are_gone_back_to(tmp_path: Path, tails: tuple[int, ...]) -> None:
    """The same of recurrent layers, whose prompts are read in pieces."""
    context = Context(tiny_family("qwen35").file.engine(tmp_path, n_ctx=64, n_threads=1, n_ubatch=4))
    alone = {}
    for n in range(22, 31):
        context.engine.reset()
        alone[n] = context.read(None, PROMPT[:n], tails).copy()
    for before in (1, 6, 7, 8, 21, 29, 30):
        for n, rows in alone.items():
            context.read(None, [*PROMPT[:before], *PROMPT[:2]], tails)
            assert (context.read(None, PROMPT[:n], tails) == rows).all(), (before, n)
