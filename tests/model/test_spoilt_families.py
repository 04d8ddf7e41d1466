"""Files of every family with something spoilt: a line that names it, or a model that runs; never a traceback."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile, Tensor, open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.model.key_table import NEUTRAL
from powerinfer_cli.model.registry import ARCHITECTURES
from powerinfer_cli.runtime import Engine, EngineOptions
from tests.helpers.anatomy import anatomy
from tests.helpers.families import FAMILIES, tiny_family

KNOWN = [name for name, family in FAMILIES.items() if family.arch in ARCHITECTURES]
# Without these a file is another model, as good as this one: its output is the embedding, its waves are not stretched.
OPTIONAL = ("output.weight", "rope_freqs.weight")
ANY_ROWS = "position_embd.weight"

HOSTILE = st.one_of(
    st.sampled_from([-1, 0, 1, 3, 7, 16, 65, 1 << 31, (1 << 64) - 1]),
    st.sampled_from([float("nan"), float("inf"), -1.0, 0.0, 1e-300, 1e-30, 1e30, 1e308]),
    st.booleans(),
    st.sampled_from(["", "none", "linear", "yarn", "longrope", "gelu", "x"]),
    st.lists(st.integers(-1, 9), max_size=6).map(lambda items: np.array(items, np.int64)),
    st.lists(st.booleans(), max_size=6).map(np.array),
    st.just([[1], ["a"]]),
)
MORE_KEYS = (
    "expert_count",
    "expert_used_count",
    "expert_group_count",
    "expert_weights_scale",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.scale",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "use_parallel_residual",
    "rope.freq_base_swa",
    "rope.dimension_count_swa",
    "attention.key_length_swa",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.finetuned",
)


@pytest.fixture(scope="module", params=KNOWN)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    return open_gguf(tiny_family(request.param).file.write(tmp_path_factory.mktemp("family") / "model.gguf"))


def with_tensors(gguf: GGUFFile, tensors: dict[str, Tensor]) -> GGUFFile:
    return GGUFFile(gguf.path, gguf.sparse, gguf.version, gguf.metadata, tensors)


def with_keys(gguf: GGUFFile, changes: dict[str, Any]) -> GGUFFile:
    return GGUFFile(gguf.path, gguf.sparse, gguf.version, {**gguf.metadata, **changes}, gguf.tensors)


def arch_of(gguf: GGUFFile) -> str:
    return gguf.get("general.architecture", str)


def refusal(gguf: GGUFFile) -> str:
    """Why it is not loaded, on one line; empty where it is."""
    message = ""
    try:
        load_model(gguf)
    except PowerInferError as error:
        message = str(error)
    assert "\n" not in message
    return message


def known(gguf: GGUFFile) -> str:
    """All that is known of a model, to be compared."""
    return repr(anatomy(load_model(gguf)))


def test_each_tensor_is_needed(whole: GGUFFile) -> None:
    for left_out in whole.tensors:
        message = refusal(with_tensors(whole, {n: t for n, t in whole.tensors.items() if n != left_out}))
        assert left_out in message or (left_out in OPTIONAL and not message)


def test_each_shape_is_checked(whole: GGUFFile) -> None:
    for name, tensor in whole.tensors.items():
        *rows, columns = tensor.shape
        shapes = [(*rows, columns + 1), (2, *tensor.shape)]
        if rows and name != ANY_ROWS:
            shapes.append((rows[0] + 1, columns))
        for shape in shapes:
            message = refusal(with_tensors(whole, {**whole.tensors, name: replace(tensor, shape=shape)}))
            assert f"{name} has shape {' x '.join(map(str, shape))}, but" in message


def test_sizes_of_one_in_front_may_be_there_or_not(whole: GGUFFile) -> None:
    """llama.cpp's converter writes them, its quantiser leaves them out."""
    plain = known(whole)
    for change in (_with_one, _without_ones):
        changed = with_tensors(whole, {n: replace(t, shape=change(t.shape)) for n, t in whole.tensors.items()})
        assert known(changed) == plain


def _with_one(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


def test_no_tensor_is_passed_over(whole: GGUFFile) -> None:
    """Of another layer, or of a part that such models do not have."""
    some = next(iter(whole.tensors.values()))
    for name in ("blk.9.attn_norm.weight", "blk.1.attn_sub_norm.weight", "blk.0.attn_rel_b.weight", "cls.bias"):
        message = refusal(with_tensors(whole, {**whole.tensors, name: replace(some, name=name)}))
        assert f"unexpected tensor {name}" in message


def test_no_key_that_changes_something_is_passed_over(whole: GGUFFile) -> None:
    """It is heeded, or refused by its name: of soft caps and scales each family knows its own."""
    plain, arch = known(whole), arch_of(whole)
    for key in NEUTRAL:
        changed = with_keys(whole, {f"{arch}.{key}": 7})
        message = refusal(changed)
        assert f"{arch}.{key}" in message or (not message and known(changed) != plain)


def test_layers_with_a_window_are_as_the_file_says(whole: GGUFFile) -> None:
    windowed = [layer.attention for layer in load_model(whole).layers if layer.attention.window is not None]
    plain, arch = known(whole), arch_of(whole)
    for key, value in {
        "rope.freq_base_swa": 77.0,
        "rope.dimension_count_swa": 4,
        "attention.key_length_swa": 4,
        "attention.value_length_swa": 4,
        "attention.sliding_window_pattern": 3,
    }.items():
        changed = with_keys(whole, {f"{arch}.{key}": value})
        message = refusal(changed)
        heeded = "but the metadata asks for" in message or (not message and known(changed) != plain)
        matters = any(attention.rope or not key.startswith("rope.") for attention in windowed)
        assert f"{arch}.{key}" in message or heeded or not matters


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("attention.sliding_window", (-1, float("nan"), 1 << 31, 2.5, "16")),
        ("attention.sliding_window_pattern", (-1, [True], [2, 0, 1, 1], [True] * 5, 1.5, "ab")),
        ("attn_logit_softcapping", (-50.0, float("nan"), float("inf"), 1e-30, "50")),
        ("final_logit_softcapping", (-30.0, float("nan"), float("inf"), 1e-30, [30.0])),
        ("logit_scale", (-1.0, float("nan"), 1e30)),
        ("embedding_scale", (-1.0, float("nan"), 1e30)),
        ("residual_scale", (-1.0, float("nan"), 1e30)),
        ("attention.scale", (-1.0, float("nan"), 1e30)),
        ("attention.temperature_scale", (-1.0, float("nan"), 1e30)),
        ("attention.max_alibi_bias", (-1.0, float("nan"), 1e30)),
        ("attention.clamp_kqv", (-1.0, float("nan"), 1e30)),
        ("rope.scaling.factor", (-1.0, float("nan"), 1e-9)),
        ("rope.scaling.attn_factor", (-1.0, 0.0, float("nan"))),
        ("rope.freq_base", (0.0, -1.0, float("nan"))),
        ("rope.freq_base_swa", (0.0, -1.0, float("nan"))),
        ("rope.dimension_count", (0, -2, 1 << 20)),
    ],
)
@pytest.mark.parametrize(
    "name", ["gemma2", "gemma3", "granite", "minicpm", "olmo3", "cohere2", "phi3-window", "mistral3", "mpt"]
)
def test_what_cannot_be_is_refused_by_its_key(tmp_path: Path, name: str, key: str, values: tuple[Any, ...]) -> None:
    """Where a family does not heed the key, it is refused, too, or has no effect on it."""
    gguf = tiny_family(name).file.open(tmp_path)
    plain, arch = known(gguf), arch_of(gguf)
    for value in values:
        changed = with_keys(gguf, {f"{arch}.{key}": np.array(value) if isinstance(value, list) else value})
        message = refusal(changed)
        assert f"{arch}.{key}" in message or (not message and known(changed) == plain)


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_metadata_runs_or_is_refused(whole: GGUFFile, data: st.DataObject) -> None:
    arch = arch_of(whole)
    own = [key for key in whole.metadata if key.startswith(f"{arch}.")]
    keys = sorted({*own, *(f"{arch}.{key}" for key in MORE_KEYS)})
    changes = data.draw(st.dictionaries(st.sampled_from(keys), HOSTILE, min_size=1, max_size=2))
    message, rows = "", np.zeros(1)
    try:
        engine = Engine.load(with_keys(whole, changes), EngineOptions(n_ctx=16, n_threads=1))
        rows = np.stack([engine.prefill([1, 2, 3]), engine.decode(4)])
    except PowerInferError as error:
        message = str(error)
    assert "\n" not in message
    assert np.isfinite(rows).all()
