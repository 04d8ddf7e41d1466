"""What a device does in layers that keep a state of a sequence, by torch, against transformers and torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from powerinfer_cli.kernels.device import Ops
from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.kernels.reference_recurrent import columns_of_blocks
from powerinfer_cli.model.blocks import DeltaNet, Mamba2
from tests.helpers.kernels.device_data import normal
from tests.helpers.kernels.recurrent_data import convolution_of, delta_net_of, mamba2_of, with_bias

OPS = Ops()
SIZES = [(2, 4, 24, 20, True), (1, 3, 16, 33, False), (2, 6, 5, 16, False)]


def number(n: int) -> Tensor:
    return torch.tensor([n])


def poisoned(n: int) -> Tensor:
    """Of three sequences; the middle one is used."""
    return torch.full((3, n), torch.nan)


@pytest.mark.parametrize("cuts", [(40,), (1, 2, 20, 17), (1,) * 40])
@pytest.mark.parametrize("length", [2, 4, 7])
def test_convolution(cuts: tuple[int, ...], length: int) -> None:
    a = with_bias(convolution_of(21, length))
    x, before, after = (normal(40, 21, seed=i) for i in range(3))
    weight = a.weight.view(21, 1, length)
    wanted = F.conv1d(F.pad((before * x).T, (length - 1, 0)), weight, a.bias, groups=21).T
    plain, gated = poisoned(a.state_size), poisoned(a.state_size)
    found, at = [], 0
    for n in cuts:
        part, where = slice(at, at + n), (number(1), number(at))
        seen = OPS.convolve(before[part] * x[part], plain, *where, a, activate=True)
        found.append((seen, OPS.convolve(x[part], gated, *where, a, before=before[part], after=after[part])))
        at += n
    torch.testing.assert_close(torch.cat([one for one, _ in found]), F.silu(wanted))
    torch.testing.assert_close(torch.cat([one for _, one in found]), after * wanted)
    for states in (plain, gated):
        assert states[[0, 2]].isnan().all()
        kept = states[1].view(length - 1, a.stride)[:, :21]
        torch.testing.assert_close(kept, (before * x)[1 - length :])


def transformers_says(a: DeltaNet[object, Tensor], mixed: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_recurrent_gated_delta_rule

    n_qk = a.n_keys * a.key_dim
    q, k, v = mixed.split((n_qk, n_qk, a.n_values * a.value_dim), 1)
    q, k = (one.view(1, -1, a.n_keys, a.key_dim) for one in (q, k))
    times = a.n_values // a.n_keys
    q, k = (one.repeat(1, 1, times, 1) if a.tiled else one.repeat_interleave(times, 2) for one in (q, k))
    g = (a.decay * F.softplus(alpha + a.shift))[None]
    values = v.reshape(1, -1, a.n_values, a.value_dim)
    found, _ = torch_recurrent_gated_delta_rule(
        q, k, values, g, beta.sigmoid()[None], None, False, use_qk_l2norm_in_kernel=True
    )
    return found[0].flatten(1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cuts", [(1,) * 45, (FEW + 29,), (3, FEW + 1, 1, FEW, 8)])
def test_delta_rule(size: tuple[int, int, int, int, bool], cuts: tuple[int, ...]) -> None:
    """Step by step, in chunks, and both in turns; of other sequences, nothing is read or written."""
    a = delta_net_of(*size[:4], tiled=size[4])
    mixed, alpha, beta = normal(45, a.convolution.channels), normal(45, a.n_values), 4 * normal(45, a.n_values, seed=1)
    states, found, at = poisoned(a.state_size), [], 0
    for n in cuts:
        part = slice(at, at + n)
        found.append(OPS.delta_rule(a, mixed[part], alpha[part], beta[part], states, number(1), number(at)))
        at += n
    torch.testing.assert_close(torch.cat(found), transformers_says(a, mixed, alpha, beta), rtol=1e-4, atol=1e-5)
    assert states[[0, 2]].isnan().all()
    blocks = states[1, a.convolution.state_size :].view(a.n_values, a.n_blocks, a.key_dim, -1)
    assert columns_of_blocks(blocks, a.value_dim).isfinite().all()
    assert states[1, : a.convolution.state_size].isnan().all()


@pytest.mark.parametrize("alpha", [-60.0, 0.0, 60.0])
@pytest.mark.parametrize("beta", [-60.0, 60.0])
@pytest.mark.parametrize("n", [1, 130])
def test_edges(alpha: float, beta: float, n: int) -> None:
    """Decays and betas near 0 and 1."""
    a = delta_net_of(2, 4, 24, 20, tiled=True)
    states, mixed = torch.zeros(1, a.state_size), normal(n, a.convolution.channels)
    gates = torch.full((n, 4), alpha), torch.full((n, 4), beta)
    found = OPS.delta_rule(a, mixed, *gates, states, number(0), number(0))
    assert found.isfinite().all()
    torch.testing.assert_close(found, transformers_says(a, mixed, *gates), rtol=1e-4, atol=1e-5)
    assert states.isfinite().all()


def test_4000_tokens_do_not_drift() -> None:
    a = delta_net_of(1, 2, 24, 20, tiled=True)
    a.decay[:] = torch.tensor([-0.001, -0.1])
    mixed, alpha, beta = normal(4000, a.convolution.channels), normal(4000, 2), normal(4000, 2, seed=1)
    found = []
    for step in (4000, FEW):
        states = torch.zeros(1, a.state_size)
        parts = [slice(at, at + step) for at in range(0, 4000, step)]
        rows = [OPS.delta_rule(a, mixed[p], alpha[p], beta[p], states, number(0), number(p.start)) for p in parts]
        found.append((torch.cat(rows), states))
    for whole, slow in zip(*found, strict=True):
        torch.testing.assert_close(whole, slow, rtol=1e-3, atol=1e-3 * float(slow.abs().max()))


def transformers_scan(a: Mamba2[object, Tensor], mixed: Tensor, steps: Tensor) -> Tensor:
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    n = a.n_groups * a.state_dim
    x, b, c = mixed.split((a.inner, n, n), 1)
    x = x.reshape(1, len(x), a.n_heads, a.value_dim)
    b, c = (one.reshape(1, len(one), a.n_groups, a.state_dim) for one in (b, c))
    found = mamba2_chunk_scan(x, steps[None], a.decay, b, c, 16, D=a.skip, dt_bias=a.shift, dt_softplus=True)
    return found[0].flatten(1)


@pytest.mark.parametrize("size", [(4, 2, 20, 24), (3, 1, 33, 16), (6, 2, 16, 5)])
@pytest.mark.parametrize("cuts", [(1,) * 45, (FEW + 29,), (3, FEW + 1, 1, FEW, 8)])
def test_scan(size: tuple[int, int, int, int], cuts: tuple[int, ...]) -> None:
    a = mamba2_of(*size)
    mixed, steps = normal(45, a.convolution.channels), normal(45, a.n_heads)
    states, found, at = poisoned(a.state_size), [], 0
    for n in cuts:
        part = slice(at, at + n)
        found.append(OPS.scan(a, mixed[part], steps[part], states, number(1), number(at)))
        at += n
    torch.testing.assert_close(torch.cat(found), transformers_scan(a, mixed[:at], steps[:at]), rtol=1e-4, atol=1e-4)
    assert states[[0, 2]].isnan().all()
    assert states[1, a.convolution.state_size :].isfinite().all()
    assert states[1, : a.convolution.state_size].isnan().all()


@pytest.mark.parametrize("step", [-60.0, 60.0])
@pytest.mark.parametrize("n", [1, 130])
def test_edges_of_scans(step: float, n: int) -> None:
    a = mamba2_of(4, 2, 20, 24)
    states, mixed, steps = torch.zeros(1, a.state_size), normal(n, a.convolution.channels), torch.full((n, 4), step)
    found = OPS.scan(a, mixed, steps, states, number(0), number(0))
    wanted = transformers_scan(a, mixed, steps)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    assert states.isfinite().all()
