"""GPU memory among several models: the least time together, found by looking at all divisions of few parts."""

from itertools import product

import numpy as np
import pytest

from powerinfer_cli.router.division import STEPS, division


@pytest.mark.parametrize("n_models", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_as_trying_all(n_models: int, seed: int) -> None:
    curves = 1 - np.random.default_rng(seed).random((n_models, STEPS + 1)).cumsum(1) / STEPS
    allowed = (parts for parts in product(range(STEPS + 1), repeat=n_models) if sum(parts) <= STEPS)
    best = min(allowed, key=lambda parts: sum(curve[n] for curve, n in zip(curves, parts, strict=True)))
    assert division(curves.tolist()) == list(best)


def test_nobody_gets_what_gains_nothing() -> None:
    flat, steep = [2.0] * (STEPS + 1), [9.0, 9.0, 9.0, *[1.0] * (STEPS - 2)]
    assert division([flat, steep, flat]) == [0, 3, 0]
