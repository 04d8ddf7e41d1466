"""Sparse with an exact predictor equals dense, and skips most of the work."""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.exact_sparse import exact_sparse
from tests.helpers.rounding import check_logits

IDS = [int(i) for i in np.random.default_rng(1).integers(0, 80, 40)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sparse_equals_dense(tmp_path: Path, seed: int) -> None:
    sparse, dense = exact_sparse(seed=seed)
    wanted = dense.engine(tmp_path).logits(IDS)
    engine = sparse.engine(tmp_path)
    logits = np.concatenate([engine.logits(IDS[:25]), np.stack([engine.decode(i) for i in IDS[25:]])])
    assert wanted.std() > 0.5
    check_logits(logits, wanted)
    assert 0.02 < (engine.stats.mean_active or 0) < 0.5
    assert engine.stats.mean_predicted == pytest.approx(engine.stats.mean_active, rel=1e-3)
