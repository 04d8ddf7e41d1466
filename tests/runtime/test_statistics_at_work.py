"""What activation statistics settle, the predictor is not asked about."""

from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.placement import ActivationStatistics
from powerinfer_cli.runtime import Engine, EngineOptions
from tests.helpers.kernels.sparse_reference import masked_logits, predictor_mask, random_predictors
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import PROMPT, TinyModel, tiny_model

N_FF, TOKENS = 112, 50_000


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return tiny_model("llama-relu")


def counts(always: slice, never: slice) -> ActivationStatistics:
    layer = np.full(N_FF, 100.0)
    layer[always], layer[never] = TOKENS, 0
    return ActivationStatistics((layer, layer))


def run(
    tiny: TinyModel,
    folder: Path,
    predictors: list,
    statistics: ActivationStatistics | None,
    kind: GGMLType = GGMLType.F32,
) -> np.ndarray:
    gguf = tiny.file.sparsified(predictors).stored_as(kind).open(folder)
    engine = Engine.load(gguf, EngineOptions(n_ctx=64, n_threads=1, type_k="f32", type_v="f32"), statistics)
    return np.concatenate([engine.logits(PROMPT[:9]), np.stack([engine.decode(t) for t in PROMPT[9:]])])


def test_statistics_that_agree_with_the_predictor_change_nothing(tiny: TinyModel, tmp_path: Path) -> None:
    predictors = random_predictors(tiny)
    for fc1, fc2 in predictors:
        fc2[:10] = np.abs(fc2[:10])  # hidden units are >= 0: these logits are too
        fc2[10:30] = -np.abs(fc2[10:30]) - 0.01
        fc1[-1] = -fc1[0]  # at least one hidden unit is positive
        fc2[10:30, [0, -1]] -= 1
    wanted = run(tiny, tmp_path, predictors, None)
    logits = run(tiny, tmp_path, predictors, counts(slice(0, 10), slice(10, 30)))
    check_logits(logits, wanted)


def test_statistics_overrule_the_predictor(tiny: TinyModel, tmp_path: Path) -> None:
    predictors = random_predictors(tiny)
    ask = predictor_mask(predictors, 0.0)

    def settled(layer: int, x: torch.Tensor) -> torch.Tensor:
        mask = ask(layer, x)
        mask[:, :40], mask[:, 40:70] = True, False
        return mask

    wanted = masked_logits(tiny, PROMPT, settled, "attended")
    logits = run(tiny, tmp_path, predictors, counts(slice(0, 40), slice(40, 70)))
    check_logits(logits, wanted)
    assert np.abs(wanted - masked_logits(tiny, PROMPT, ask, "attended")).max() > 0.1


def test_rows_of_settled_neurons_are_not_read(tiny: TinyModel, tmp_path: Path) -> None:
    predictors = random_predictors(tiny)
    statistics = counts(slice(0, 40), slice(40, 70))
    clean = run(tiny, tmp_path, predictors, statistics)
    for _, fc2 in predictors:
        fc2[:70] = np.nan
    np.testing.assert_array_equal(run(tiny, tmp_path, predictors, statistics), clean)


def test_bundled_rows_of_settled_neurons_change_nothing(tiny: TinyModel, tmp_path: Path) -> None:
    """Of a quantised predictor rows are bundled, 16 neurons together: those that never fire have none."""
    predictors = random_predictors(tiny, (32, 64))
    statistics = counts(slice(0, 40), slice(40, 70))
    clean = run(tiny, tmp_path, predictors, statistics, GGMLType.Q8_0)
    for _, fc2 in predictors:
        fc2[:40], fc2[40:70] = -1e3, 1e3
    assert not np.array_equal(run(tiny, tmp_path, predictors, None, GGMLType.Q8_0), clean)
    np.testing.assert_array_equal(run(tiny, tmp_path, predictors, statistics, GGMLType.Q8_0), clean)


def test_a_dense_model_has_no_use_for_them(tiny: TinyModel, tmp_path: Path) -> None:
    options = EngineOptions(n_ctx=64, type_k="f32", type_v="f32")
    engine = Engine.load(tiny.file.open(tmp_path), options, counts(slice(0, 1), slice(1, N_FF)))
    check_logits(engine.logits(PROMPT), tiny.reference)
