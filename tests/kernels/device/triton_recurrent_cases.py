"""Triton's kernels of layers with states against their twins: see triton_cases.py."""

import pytest
import torch
from torch import Tensor

from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.kernels.reference_recurrent import columns_of_blocks
from tests.helpers.kernels.device_data import normal
from tests.helpers.kernels.recurrent_data import convolution_of, delta_net_of, mamba2_of, with_bias
from tests.helpers.kernels.triton_twins import DEVICE, FAST, TWIN, close, in_nan, there

SIZES = [(2, 4, 24, 20, True), (1, 3, 16, 33, False), (2, 6, 5, 16, False)]


def states_of(n: int) -> tuple[Tensor, Tensor]:
    """Of three sequences, twice; of the middle one alone there are numbers."""
    states = torch.full((3, n), torch.nan, device=DEVICE)
    states[1] = there(normal(n, seed=7))
    return states, states.clone()


def number(n: int) -> Tensor:
    return torch.tensor([n], device=DEVICE)


@pytest.mark.parametrize("n_past", [0, 5])
@pytest.mark.parametrize("n", [1, 3, FEW])
@pytest.mark.parametrize("channels", [21, 200])
def test_convolution(channels: int, n: int, n_past: int) -> None:
    a = convolution_of(channels, 4).map(there)
    x, before, after = (in_nan(normal(n, channels, seed=i)) for i in range(3))
    for weight, more in ((a, {"activate": True}), (with_bias(a), {"before": before, "after": after})):
        ours, theirs = states_of(a.state_size)
        where = number(1), number(n_past)
        close(FAST.convolve(x, ours, *where, weight, **more), TWIN.convolve(x, theirs, *where, weight, **more))
        same(ours, theirs)


def same(ours: Tensor, theirs: Tensor) -> None:
    assert ours[[0, 2]].isnan().all()
    close(ours[1], theirs[1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("n", "n_past"), [(1, 0), (1, 9), (FEW, 3)])
def test_delta_rule(size: tuple[int, int, int, int, bool], n: int, n_past: int) -> None:
    a = delta_net_of(*size[:4], tiled=size[4], device=DEVICE)
    mixed, alpha = in_nan(normal(n, a.convolution.channels)), in_nan(normal(n, a.n_values))
    beta = in_nan(4 * normal(n, a.n_values, seed=1))
    ours, theirs = states_of(a.state_size)
    where = number(1), number(n_past)
    found = FAST.delta_rule(a, mixed, alpha, beta, ours, *where)
    close(found, TWIN.delta_rule(a, mixed, alpha, beta, theirs, *where))
    same(ours, theirs)


@pytest.mark.parametrize("alpha", [-60.0, 60.0])
@pytest.mark.parametrize("beta", [-60.0, 60.0])
def test_edges(alpha: float, beta: float) -> None:
    """Decays and betas near 0 and 1."""
    a = delta_net_of(2, 4, 24, 20, tiled=True, device=DEVICE)
    mixed, gates = there(normal(2, a.convolution.channels)), [there(torch.full((2, 4), x)) for x in (alpha, beta)]
    ours, theirs = states_of(a.state_size)
    close(
        FAST.delta_rule(a, mixed, *gates, ours, number(1), number(4)),
        TWIN.delta_rule(a, mixed, *gates, theirs, number(1), number(4)),
    )
    same(ours, theirs)


@pytest.mark.parametrize("size", [(4, 2, 20, 24), (3, 1, 33, 16), (6, 2, 16, 5)])
@pytest.mark.parametrize(("n", "n_past"), [(1, 0), (1, 9), (FEW, 3)])
def test_scan(size: tuple[int, int, int, int], n: int, n_past: int) -> None:
    a = mamba2_of(*size, device=DEVICE)
    mixed, steps = in_nan(normal(n, a.convolution.channels)), in_nan(normal(n, a.n_heads))
    ours, theirs = states_of(a.state_size)
    where = number(1), number(n_past)
    close(FAST.scan(a, mixed, steps, ours, *where), TWIN.scan(a, mixed, steps, theirs, *where))
    assert ours[[0, 2]].isnan().all()
    kept = slice(a.convolution.state_size, None)
    columns = (one[1, kept].view(a.n_heads, a.n_blocks, a.state_dim, -1) for one in (ours, theirs))
    close(*(columns_of_blocks(one, a.value_dim) for one in columns))
