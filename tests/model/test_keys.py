"""What is done with each metadata key that llama.cpp knows: honoured, refused by name, or of no effect."""

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import key_notes, load_model
from powerinfer_cli.model.key_table import HONOURED, IRRELEVANT, NEUTRAL, WITH_EXPERTS
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from tests.helpers.anatomy import anatomy
from tests.helpers.families import tiny_family
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import tiny_model

MODELS = ("llama", "bamboo", "falcon-7b", "opt", "qwen2", "qwen3")

# What each honoured key changes of the configuration, or of the first layer, from what to what.
CHANGES: dict[str, tuple[Any, str]] = {
    "context_length": (64, "n_ctx_train"),
    "attention.sliding_window": (32, "n_ctx_train"),
    "attention.layer_norm_rms_epsilon": (0.25, "attention_norms.before.eps"),
    "hidden_activation": ("gelu", "activation"),
    "rope.dimension_count": (8, "attention.rope.n_rot"),
    "rope.freq_base": (5e5, "attention.rope.base"),
    "rope.scale_linear": (4.0, "attention.rope.factor"),
    "rope.scaling.type": ("yarn", "attention.rope.scaling"),
    "rope.scaling.factor": (4.0, "attention.rope.factor"),
    "rope.scaling.attn_factor": (0.5, "attention.rope.attn_factor"),
    "rope.scaling.original_context_length": (32, "attention.rope.n_ctx_original"),
    "rope.scaling.yarn_log_multiplier": (0.5, "attention.rope.log_multiplier"),
    "rope.scaling.yarn_attn_factor": (0.5, "attention.rope.yarn_attn_factor"),
    "rope.scaling.yarn_beta_fast": (16.0, "attention.rope.beta_fast"),
    "rope.scaling.yarn_beta_slow": (2.0, "attention.rope.beta_slow"),
}
# Sizes that must agree with each other and with the tensors (tests/model/test_config.py, test_weights.py), the other
# norm's epsilon, what the server reads (tests/serving), and what scores texts (tests/runtime/test_encoders.py).
ELSEWHERE = [
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "expert_count",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_epsilon",
    "pooling_type",
    "classifier.pooling_type",
]


def config(model: ModelFile, folder: Path) -> dict[str, Any]:
    return anatomy(load_model(model.open(folder)))


def with_key(model: ModelFile, key: str, value: Any) -> ModelFile:
    return model.with_metadata(**{key.replace(".", "__"): value})


def names_of(keys: type) -> Iterator[str]:
    """The keys of an architecture that the gguf package knows."""
    for value in vars(keys).values():
        if isinstance(value, type):
            yield from names_of(value)
        elif isinstance(value, str) and value.startswith("{arch}.") and "{dense}" not in value:
            yield value.removeprefix("{arch}.")


def test_every_key_has_one_place() -> None:
    places = [HONOURED, IRRELEVANT, WITH_EXPERTS, frozenset(NEUTRAL)]
    assert sum(map(len, places)) == len(frozenset().union(*places))
    assert set(names_of(gguf.Keys)) - frozenset().union(*places) == set()
    assert {*CHANGES, *ELSEWHERE} == HONOURED


@pytest.mark.parametrize("key", sorted(CHANGES))
def test_honoured(llama: ModelFile, tmp_path: Path, key: str) -> None:
    value, place = CHANGES[key]
    models = [load_model(file.open(tmp_path)) for file in (llama, with_key(llama, key, value))]
    parts: list[Any] = [model.layers[0] if "." in place else model.config for model in models]
    before, after = (attrgetter(place)(part) for part in parts)
    assert before != value
    assert after == value


@pytest.mark.parametrize("key", sorted(NEUTRAL))
def test_refused_unless_it_changes_nothing(llama: ModelFile, tmp_path: Path, key: str) -> None:
    plain = config(llama, tmp_path)
    for value in NEUTRAL[key]:
        assert config(with_key(llama, key, value), tmp_path) == plain
    for value in (True, 7, 0.5, [0, 7]):
        if value in NEUTRAL[key] or key == "attention.causal":
            continue  # 1, where that is a factor; llama's layers heed the other
        with pytest.raises(PowerInferError, match=f"llama.{key} is .*not supported for llama models") as caught:
            config(with_key(llama, key, value), tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(IRRELEVANT | WITH_EXPERTS))
def test_without_effect(llama: ModelFile, tmp_path: Path, key: str) -> None:
    assert config(with_key(llama, key, 3), tmp_path) == config(llama, tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_attention_to_both_sides(tmp_path: Path, name: str) -> None:
    file = tiny_model(name).file
    assert config(with_key(file, "attention.causal", True), tmp_path) == config(file, tmp_path)
    both = load_model(with_key(file, "attention.causal", False).open(tmp_path))
    assert not both.config.causal
    assert not both.config.writes
    assert both.head.output is None
    with pytest.raises(PowerInferError, match=r"attention\.causal is neither true nor false"):
        config(with_key(file, "attention.causal", 1), tmp_path)


@pytest.mark.parametrize("name", ["gemma2", "deepseek2"])
def test_windows_and_latents_see_one_side_only(tmp_path: Path, name: str) -> None:
    file = tiny_family(name).file
    with pytest.raises(PowerInferError, match=r"attention\.causal is false.* not supported") as caught:
        config(with_key(file, "attention.causal", False), tmp_path)
    assert "\n" not in str(caught.value)


def test_what_an_architecture_does_anyway(llama: ModelFile, tmp_path: Path) -> None:
    falcon = tiny_model("falcon-7b").file
    assert config(with_key(falcon, "use_parallel_residual", True), tmp_path) == config(falcon, tmp_path)
    with pytest.raises(PowerInferError, match=r"falcon\.use_parallel_residual is false"):
        config(with_key(falcon, "use_parallel_residual", False), tmp_path)
    for key, value in {"attention.scale": 0.25, "embedding_length_out": 64}.items():  # heads of 16
        assert config(with_key(llama, key, value), tmp_path) == config(llama, tmp_path)


def test_a_window_longer_than_the_context_is_none(llama: ModelFile, tmp_path: Path) -> None:
    assert config(with_key(llama, "attention.sliding_window", 4096), tmp_path) == config(llama, tmp_path)


def test_a_file_that_is_no_model(llama: ModelFile, tmp_path: Path) -> None:
    adapter = ModelFile("llama", {**llama.metadata, "general.type": "adapter"}, llama.tensors)
    with pytest.raises(PowerInferError, match=r"general\.type is 'adapter'"):
        config(adapter, tmp_path)


def test_remarks(llama: ModelFile, tmp_path: Path) -> None:
    said: list[str] = []
    more = {
        "general.sampling.temp": 0.6,
        "tokenizer.ggml.suppress_tokens": np.array([3], np.int32),
        "llama.attention.spiral": 3,
        "llama.pooling_type": 9,
        "other.key": 1,
    }
    file = ModelFile("llama", {**llama.metadata, **more}, llama.tensors).open(tmp_path)
    Engine.load(file, EngineOptions(n_ctx=32, reference=True), events=LoadEvents(said.append))
    assert said == key_notes(file, load_model(file).config.architecture.name)
    assert [line.partition(":")[0] for line in said] == ["warning", "note", "warning", "warning"]
    for line, word in zip(said, ("llama.attention.spiral", "temp 0.6", "pooling_type is 9", "suppress"), strict=True):
        assert word in line
    assert not any("other.key" in line for line in said)


def test_values_of_any_type(llama: ModelFile, tmp_path: Path) -> None:
    for value in ([1, 2], "text", 3.5, False):
        file = with_key(llama, "pooling_type", value).open(tmp_path)
        assert len(key_notes(file, load_model(file).config.architecture.name)) == (value is not False)
