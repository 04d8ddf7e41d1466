"""Triton's kernels of layers with states against their twins: see triton_cases.py."""

from typing import Any

import pytest
import torch
from torch import Tensor

from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.kernels.reference_recurrent import columns_of_blocks
from powerinfer_cli.model.blocks import DeltaNet
from tests.helpers.kernels.device_data import normal
from tests.helpers.kernels.recurrent_data import convolution_of, delta_net_of, mamba2_of, with_bias
from tests.helpers.kernels.triton_twins import DEVICE, FAST, TWIN, close, in_nan, there

Net = DeltaNet[Any, Tensor]
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


def token_by_token(a: Net, mixed: Tensor, gates: list[Tensor], states: Tensor, n_past: int) -> Tensor:
    found = []
    for at in range(0, len(mixed), FEW):
        own = slice(at, at + FEW)
        where = number(1), number(n_past + at)
        found.append(TWIN.delta_rule(a, mixed[own], *(one[own] for one in gates), states, *where))
    return torch.cat(found)


def check_chunks(a: Net, mixed: Tensor, gates: list[Tensor], n_past: int, scale: float = 1e-5) -> None:
    """Against the recurrent form."""
    ours, theirs = states_of(a.state_size)
    found = FAST.delta_rule(a, mixed, *gates, ours, number(1), number(n_past))
    close(found, token_by_token(a, mixed, gates, theirs, n_past), scale)
    assert ours[[0, 2]].isnan().all()
    close(ours[1], theirs[1], scale)


@pytest.mark.parametrize(("size", "n", "n_past"), [(SIZES[0], 40, 3), (SIZES[1], 32, 0), (SIZES[2], 65, 5)])
def test_delta_rule_in_chunks(size: tuple[int, int, int, int, bool], n: int, n_past: int) -> None:
    a = delta_net_of(*size[:4], tiled=size[4], device=DEVICE)
    gates = [in_nan(normal(n, a.n_values)), in_nan(4 * normal(n, a.n_values, seed=1))]
    check_chunks(a, in_nan(normal(n, a.convolution.channels)), gates, n_past)


def test_a_head_of_several_parts_that_does_not_drift() -> None:
    a = delta_net_of(1, 1, 72, 16, tiled=True, device=DEVICE)
    a.decay[:] = -0.01
    gates = [there(normal(500, 1)), there(normal(500, 1, seed=1))]
    check_chunks(a, there(normal(500, a.convolution.channels)), gates, 0, 1e-4)


@pytest.mark.parametrize("alpha", [-60.0, 60.0, None])
@pytest.mark.parametrize("beta", [-60.0, 60.0])
def test_edges_in_chunks(alpha: float | None, beta: float) -> None:
    """Decays and betas near 0 and 1, in turns (None), of tokens whose keys are all the same."""
    a = delta_net_of(1, 2, 16, 16, tiled=True, device=DEVICE)
    n, same_keys = 40, normal(1, a.convolution.channels)
    alphas = torch.full((n, 2), 60.0 if alpha is None else alpha)
    if alpha is None:
        alphas[1::3] = -60.0
        alphas[::9] = 1e6
    check_chunks(a, there(same_keys.repeat(n, 1)), [there(alphas), there(torch.full((n, 2), beta))], 4)


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
