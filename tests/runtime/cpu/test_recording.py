"""What `Engine.record` shows of each layer, against what passes through transformers' layers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, GGUFFile
from powerinfer_cli.runtime import ContextFull, Engine, EngineOptions
from tests.helpers.exact_sparse import exact_sparse
from tests.helpers.kernels.sparse_reference import random_predictors, what_passes
from tests.helpers.model_file import ModelFile
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import PROMPT, RELU_CASES, TinyModel, tiny_model

SOURCE = {"falcon": "input"}  # what a predictor looks at; "attended" for the other architectures

IDS = [token % 80 for token in PROMPT]  # for models of so small a vocabulary

Recorded = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(params=[False, True], ids=["kernels", "reference"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"reference": request.param}


def record(engine: Engine, ids: list[int] = PROMPT) -> Recorded:
    """The batches of each layer put together. Every layer of a batch comes before the next batch."""
    shown: list[tuple[int, np.ndarray, np.ndarray]] = []
    engine.record(ids, lambda *seen: shown.append((seen[0], seen[1].copy(), seen[2].copy())))
    n_layer = engine.config.n_layer
    assert [layer for layer, _, _ in shown] == list(range(n_layer)) * (len(shown) // n_layer)
    return [
        tuple(np.concatenate([seen[part] for seen in shown[layer::n_layer]]) for part in (1, 2))  # type: ignore[misc]
        for layer in range(n_layer)
    ]


def check(found: Recorded, wanted: Recorded) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.dtype == np.float32
            assert other.std() > 0.1  # else the tolerance would let anything pass
            check_logits(one, other)


def engine_of(gguf: GGUFFile, options: dict[str, Any], n_batch: int = 512) -> Engine:
    exact = {"n_ctx": 64, "n_threads": 2, "type_k": "f32", "type_v": "f32"}
    return Engine.load(gguf, EngineOptions(n_batch=n_batch, **exact, **options))


@pytest.mark.parametrize("n_batch", [1, 11])
def test_every_architecture(tiny: TinyModel, gguf: GGUFFile, options: dict[str, Any], n_batch: int) -> None:
    wanted = what_passes(tiny, PROMPT, SOURCE.get(tiny.file.arch, "attended"))
    check(record(engine_of(gguf, options, n_batch)), wanted)


@pytest.mark.parametrize("case", RELU_CASES)
@pytest.mark.parametrize("n_batch", [1, 512])
def test_every_neuron_of_a_sparse_model(tmp_path: Path, case: str, options: dict[str, Any], n_batch: int) -> None:
    tiny = tiny_model(case)
    sparse = tiny.file.sparsified(random_predictors(tiny))  # which would let half of them through
    wanted = what_passes(tiny, PROMPT, SOURCE.get(tiny.file.arch, "attended"))
    check(record(sparse.engine(tmp_path, n_batch=n_batch, **options)), wanted)


@pytest.mark.parametrize("n_ff", [200, 1100])
def test_more_neurons_than_a_block(tmp_path: Path, n_ff: int) -> None:
    sparse, dense = exact_sparse(n_ff=n_ff)
    wanted = record(dense.engine(tmp_path), IDS)
    found = record(sparse.engine(tmp_path), IDS)
    check(found, wanted)
    assert 0.01 < (found[0][1] != 0).mean() < 0.5


@pytest.fixture(params=["dense", "sparse"])
def model(request: pytest.FixtureRequest) -> ModelFile:
    llama = tiny_model("llama-relu")
    return llama.file if request.param == "dense" else llama.file.sparsified(random_predictors(llama))


def test_recording_leaves_no_trace(model: ModelFile, tmp_path: Path, options: dict[str, Any]) -> None:
    fresh = model.engine(tmp_path, n_batch=9, **options)
    wanted = np.concatenate([fresh.logits(PROMPT[:9]), fresh.decode(PROMPT[9])[None]])
    engine = model.engine(tmp_path, n_batch=9, **options)
    engine.prefill(PROMPT[3:])
    before = engine.stats.counts.copy()
    record(engine)
    assert engine.n_past == 0
    np.testing.assert_array_equal(engine.stats.counts, before)
    engine.stats.reset()
    logits = np.concatenate([engine.logits(PROMPT[:9]), engine.decode(PROMPT[9])[None]])
    np.testing.assert_array_equal(logits, wanted)
    np.testing.assert_array_equal(engine.stats.counts, fresh.stats.counts)


def test_recording_begins_from_an_empty_context(model: ModelFile, tmp_path: Path, options: dict[str, Any]) -> None:
    engine = model.engine(tmp_path, **options)
    first = record(engine)
    engine.prefill(PROMPT[:7])
    for one, again in zip(first, record(engine), strict=True):
        for a, b in zip(one, again, strict=True):
            np.testing.assert_array_equal(a, b)


def test_threads_change_no_bit(model: ModelFile, tmp_path: Path) -> None:
    engine = model.engine(tmp_path, n_batch=9)
    first = record(engine)
    for threads in (3, 1):
        engine.use_threads(threads)
        for one, again in zip(first, record(engine), strict=True):
            for a, b in zip(one, again, strict=True):
                np.testing.assert_array_equal(a, b)


def test_what_is_shown_cannot_be_written_to(model: ModelFile, tmp_path: Path, options: dict[str, Any]) -> None:
    def meddle(_layer: int, residual: np.ndarray, activations: np.ndarray) -> None:
        for shown in (residual, activations):
            with pytest.raises(ValueError, match="read-only"):
                shown[0, 0] = 1

    model.engine(tmp_path, **options).record(PROMPT, meddle)


def test_a_tap_that_fails_leaves_an_empty_context(model: ModelFile, tmp_path: Path, options: dict[str, Any]) -> None:
    engine = model.engine(tmp_path, **options)
    engine.prefill(PROMPT[:5])
    with pytest.raises(ZeroDivisionError):
        engine.record(PROMPT, lambda *_: 1 // 0)
    assert engine.n_past == 0
    np.testing.assert_array_equal(engine.prefill(PROMPT), model.engine(tmp_path, **options).prefill(PROMPT))


def keep_even(layer: int, values: np.ndarray) -> None:
    values[:, 1 + layer :: 2] = 0


@pytest.mark.parametrize("n_batch", [1, 9])
def test_what_meets_the_down_matrix_can_be_changed(model: ModelFile, tmp_path: Path, n_batch: int) -> None:
    """As the plain twin says; left alone it is what the dense model computes."""
    engine, plain = (model.engine(tmp_path, n_batch=n_batch, all_active=True, reference=x) for x in (False, True))
    found, wanted = engine.logits(PROMPT, keep_even), plain.logits(PROMPT, keep_even)
    check_logits(found, wanted)
    assert not engine.stats.counts.any()
    for one in (engine, plain):
        one.reset()
    dense = engine.logits(PROMPT, lambda *_: None)
    check_logits(dense, plain.logits(PROMPT))
    assert np.abs(found - dense).max() > 0.1
    engine.reset()
    np.testing.assert_allclose(engine.prefill(PROMPT, change=keep_even), found[-1], atol=1e-4)
    engine.reset()
    check_logits(engine.logits(PROMPT), dense)


def test_too_many_tokens_and_unknown_ones(model: ModelFile, tmp_path: Path) -> None:
    engine = model.engine(tmp_path)
    with pytest.raises(ContextFull):
        engine.record([1] * (engine.n_ctx + 1), lambda *_: pytest.fail("nothing fits"))
    with pytest.raises(PowerInferError, match="-1"):
        engine.record([1, -1], lambda *_: pytest.fail("nothing can be evaluated"))
    engine.record([], lambda *_: pytest.fail("nothing is there"))


@pytest.mark.parametrize("kind", [GGMLType.Q4_0, GGMLType.Q8_0])
def test_quantised_weights(tmp_path: Path, kind: GGMLType) -> None:
    """Kernels round what meets quantised rows to 8 bits; the plain twin does not."""
    sparse, dense = (file.stored_as(kind) for file in exact_sparse(n_ff=224))
    for file in (sparse, dense):
        wanted = record(file.engine(tmp_path, reference=True), IDS)
        for ours, theirs in zip(record(file.engine(tmp_path), IDS), wanted, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert np.abs(one - other).mean() < 0.03 * other.std()
