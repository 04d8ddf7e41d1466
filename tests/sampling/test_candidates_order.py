"""The largest candidates in order, against a plain sort, where many are equal and where few are."""

import numpy as np
import pytest

from powerinfer_cli.sampling.candidates import Candidates, from_logits, largest


@pytest.mark.parametrize("levels", [1, 3, 50, 10**7])
@pytest.mark.parametrize("k", [1, 2, 40, 700, 4095, 4096, 9999])
def test_largest(levels: int, k: int) -> None:
    random = np.random.default_rng(k)
    logits = random.integers(0, levels, 5000).astype(np.float32) - np.float32(levels / 2)
    logits[random.integers(0, 5000, 50)] = -np.inf
    for candidates in (from_logits(logits), Candidates(random.permutation(5000), logits)):
        order = np.lexsort((candidates.ids, -logits))[:k]
        found = largest(candidates, k)
        np.testing.assert_array_equal(found.ids, candidates.ids[order])
        np.testing.assert_array_equal(found.logits, logits[order])
