"""Mamba-2's kernels against their plain twins: several sequences, cut anywhere, on any number of threads."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from powerinfer_cli.kernels import reference_recurrent as plain
from powerinfer_cli.kernels.cpu.recurrent.mamba import gate_groups, scan, scan_steps
from powerinfer_cli.kernels.cpu.segments import State
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model.blocks import Convolution, Linear, Mamba2
from tests.helpers.kernels.kernel_runs import on_any_team, poisoned_vectors, run, state_of, vectors_of

PAGES = np.zeros(1, np.int32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def block(heads: int, groups: int, value_dim: int, state_dim: int) -> Mamba2[None, np.ndarray]:
    none, channels = Linear(None, None), heads * value_dim + 2 * groups * state_dim
    kept = Convolution(channels, 4, np.zeros(0, np.float32))
    numbers = (normal(heads, seed=n) for n in (7, 8, 9))
    return Mamba2(heads, groups, value_dim, state_dim, none, none, none, kept, *numbers, norm=None, output=none)


def wanted(
    a: Mamba2[None, np.ndarray], mixed: np.ndarray, steps: np.ndarray, factors: np.ndarray, state: torch.Tensor
) -> np.ndarray:
    """By the plain twin, in float64; state [H, N, P], which is changed."""
    seen, d, g = (torch.from_numpy(one).double() for one in (mixed, steps, factors))
    n = a.n_groups * a.state_dim
    v = seen[:, : a.inner].view(len(seen), a.n_heads, -1)
    b, c = (
        part.view(len(seen), a.n_groups, -1).repeat_interleave(a.n_heads // a.n_groups, 1)
        for part in (seen[:, a.inner : a.inner + n], seen[:, a.inner + n :])
    )
    made = plain.scan(d.unsqueeze(2) * v, b, c, g.log(), state)
    return (made + torch.from_numpy(a.skip).double()[:, None] * v).flatten(1).numpy()


SIZES = [(6, 2, 20, 20), (2, 1, 64, 128), (4, 4, 16, 7), (3, 1, 1, 1)]


@pytest.mark.rungs
@pytest.mark.parametrize("sizes", SIZES)
def test_scan(sizes: tuple[int, int, int, int]) -> None:
    """Two sequences: one goes on, one begins; what the state held before is not read."""
    a, counts, pasts = block(*sizes), (7, 6), (3, 0)
    mixed, steps = normal(13, a.convolution.channels), np.abs(normal(13, a.n_heads, seed=1))
    factors = np.exp(-steps).astype(np.float32)
    kept = normal(a.n_heads, a.state_dim, a.value_dim, seed=2)
    state = State(2)
    state.fill([(n, past, PAGES) for n, past in zip(counts, pasts, strict=True)], [1, 0])

    def make() -> tuple[Operation, list[np.ndarray]]:
        states = np.full((2, a.state_size), np.nan, np.float32)
        blocks = states[1, a.convolution.state_size :].reshape(a.n_heads, a.n_blocks, a.state_dim, 16)
        wide = np.zeros((a.n_heads, a.state_dim, a.n_blocks * 16), np.float32)
        wide[..., : a.value_dim] = kept
        blocks[:] = wide.reshape(a.n_heads, a.state_dim, a.n_blocks, 16).swapaxes(1, 2)
        out = poisoned_vectors(13, a.inner)
        operands = (vectors_of(x) for x in (mixed, steps, factors))
        return scan(state.numbers, a, *operands, states, out), [out.floats, states]

    out, states = on_any_team(make)
    first = torch.from_numpy(kept).double()
    second = torch.zeros_like(first)
    made = [wanted(a, mixed[:7], steps[:7], factors[:7], first), wanted(a, mixed[7:], steps[7:], factors[7:], second)]
    np.testing.assert_allclose(out[:, : a.inner], np.concatenate(made), rtol=1e-5, atol=1e-5 * a.state_dim**0.5)
    for row, left in ((1, first), (0, second)):
        blocks = states[row, a.convolution.state_size :].reshape(a.n_heads, a.n_blocks, a.state_dim, 16)
        found = blocks.swapaxes(1, 2).reshape(a.n_heads, a.state_dim, -1)[..., : a.value_dim]
        np.testing.assert_allclose(found, left, rtol=1e-5, atol=1e-5)


@pytest.mark.rungs
@pytest.mark.parametrize("sizes", SIZES)
def test_cuts_change_no_bit(sizes: tuple[int, int, int, int]) -> None:
    a = block(*sizes)
    mixed, steps = normal(23, a.convolution.channels), np.abs(normal(23, a.n_heads, seed=1))
    found = []
    for cuts in ([23], [1] * 23, [5, 1, 9, 8]):
        states, at, rows = np.full((1, a.state_size), np.nan, np.float32), 0, []
        for n in cuts:
            part, out = slice(at, at + n), poisoned_vectors(n, a.inner)
            operands = (vectors_of(x[part]) for x in (mixed, steps, np.exp(-steps)))
            run(scan(state_of(n, at), a, *operands, states, out))
            rows.append(out.floats)
            at += n
        kept = states[:, a.convolution.state_size :]
        found.append((np.concatenate(rows)[:, : a.inner], kept))
    for one in found[1:]:
        np.testing.assert_array_equal(one[0], found[0][0])
        np.testing.assert_array_equal(one[1], found[0][1])


@pytest.mark.rungs
@pytest.mark.parametrize("heads", [1, 6, 24])
def test_steps(heads: int) -> None:
    """At the edges: no step, steps of a hundred; decays near 0 and 1."""
    given = np.concatenate((normal(5, heads) * 3, np.full((2, heads), 100), np.full((2, heads), -100))).astype(
        np.float32
    )
    decay, shift = -np.exp(normal(heads, seed=1) * 4), normal(heads, seed=2)
    steps, factors = vectors_of(given), poisoned_vectors(9, heads)
    run(scan_steps(state_of(9), steps, factors, decay, shift))
    d = F.softplus(torch.from_numpy(given + shift).double())
    np.testing.assert_allclose(steps.floats[:, :heads], d, rtol=3e-6, atol=1e-7)
    exact = torch.exp(torch.from_numpy(decay).double() * d)
    np.testing.assert_allclose(factors.floats[:, :heads], exact, rtol=1e-4, atol=1e-6)


@pytest.mark.rungs
@pytest.mark.parametrize(("groups", "size"), [(2, 60), (1, 144), (3, 16), (5, 1)])
@pytest.mark.parametrize("normed", [True, False])
def test_gate_groups(groups: int, size: int, normed: bool) -> None:
    n, eps = groups * size, 1e-5
    x, gate, weight = normal(4, n), normal(4, n, seed=1) * 2, normal(n, seed=2)

    def make() -> tuple[Operation, list[np.ndarray]]:
        v = vectors_of(x)
        return gate_groups(state_of(4), v, vectors_of(gate), groups, weight if normed else None, eps), [v.floats]

    (found,) = on_any_team(make)
    y = torch.from_numpy(x).double() * F.silu(torch.from_numpy(gate).double())
    if normed:
        parts = y.view(4, groups, size)
        parts = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + eps)
        y = parts.flatten(1) * torch.from_numpy(weight)
    np.testing.assert_allclose(found[:, :n], y, rtol=2e-5, atol=2e-6)
    assert not found[:, n:].any()
