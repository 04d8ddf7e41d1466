"""The tolerances of these tests: wide enough for any order of a sum, too narrow for a wrong term."""

import numpy as np
import pytest
import torch

from powerinfer_cli.kernels import reference
from powerinfer_cli.model import Activation
from tests.helpers.rounding import Interval, curve_of, sparse_ffn

RNG = np.random.default_rng(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("n", [1, 64, 3000])
def test_a_sum_in_any_order_lies_within_and_one_without_a_term_does_not(n: int) -> None:
    x, weights = normal(1, n), normal(4, n)
    sums = Interval.of(x).matmul(weights)
    for _ in range(20):
        order = RNG.permutation(n)
        terms = (x * weights)[:, order].numpy()
        sums.check(np.cumsum(terms, axis=1, dtype=np.float32)[None, :, -1])
        sums.check(terms.sum(axis=1, dtype=np.float32)[None])
    short = x.clone()
    short[0, n // 2] = 0
    with pytest.raises(AssertionError, match="differ; at"):
        sums.check(short.double() @ weights.double().T)
    with pytest.raises(AssertionError, match="4 of 4 differ"):
        sums.check(np.full((1, 4), np.nan))


@pytest.mark.parametrize("activation", [one for one in Activation if not one.bends_up])
@pytest.mark.parametrize("gated", [True, False])
def test_an_ffn_lies_within_and_one_without_a_neuron_does_not(gated: bool, activation: Activation) -> None:
    gate, up, down_t, x = normal(90, 64) if gated else None, normal(90, 64), normal(90, 64), normal(3, 64)
    active = torch.ones(3, 90, dtype=torch.bool)
    wanted = sparse_ffn(x, active, gate, up, down_t, activation=activation)
    kind = {"activation": activation, "curve": curve_of(activation)}
    wanted.check(reference.sparse_ffn(x, active, gate, up, down_t, **kind))
    least = wanted.value.std() / wanted.radius.max()
    assert least > 100, "this tolerance sees nothing"
    fires = torch.nn.functional.linear(x, up if gate is None else gate).argmax(1)
    active[torch.arange(3), fires] = False
    with pytest.raises(AssertionError, match="differ; at"):
        wanted.check(reference.sparse_ffn(x, active, gate, up, down_t, **kind))


def test_what_rounding_decides_is_no_test() -> None:
    near = Interval.of(np.array([[1.0, -1.0]], np.float32)).matmul(np.array([[1.0, 1.0]]))
    with pytest.raises(AssertionError, match="too near to 0"):
        assert near.is_positive.any()
