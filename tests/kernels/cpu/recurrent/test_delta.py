"""The gated delta rule's kernel against its plain twin: several sequences, cut anywhere, on any number of threads."""

import numpy as np
import pytest
import torch

from powerinfer_cli.kernels import reference_recurrent as plain
from powerinfer_cli.kernels.cpu.recurrent.delta import delta_gates, delta_rule
from powerinfer_cli.kernels.cpu.segments import State
from powerinfer_cli.kernels.jit.program import Operation
from tests.helpers.kernels.kernel_runs import on_any_team, poisoned_vectors, run, state_of, vectors_of
from tests.helpers.kernels.recurrent_data import delta_net_of

PAGES = np.zeros(1, np.int32)
# Heads of keys and of values, widths of both, and whether heads of keys repeat.
SIZES = [(2, 4, 24, 20, True), (2, 6, 7, 16, False), (1, 2, 128, 128, True), (3, 3, 1, 1, False)]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def gates(n: int, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """Decays and betas, those near 0 and 1 among them."""
    g, beta = (np.random.default_rng(seed).uniform(0, 1, (n, heads)).astype(np.float32) for seed in (3, 4))
    g[::3], beta[1::3], beta[2::3] = 1 - 1e-7, 1, 1e-30
    g[n // 2] = 0
    return g, beta


def wanted(a: object, mixed: np.ndarray, g: np.ndarray, beta: np.ndarray, state: torch.Tensor) -> np.ndarray:
    """By the twin, in float64; state [H, K, V], which is changed."""
    seen = torch.from_numpy(mixed).double()
    n_qk, times = a.n_keys * a.key_dim, a.n_values // a.n_keys
    q, k = (one.view(len(seen), a.n_keys, -1) for one in seen[:, : 2 * n_qk].split(n_qk, 1))
    q, k = (one * torch.rsqrt(one.square().sum(-1, keepdim=True) + 1e-6) for one in (q, k))
    q, k = (one.repeat(1, times, 1) if a.tiled else one.repeat_interleave(times, 1) for one in (q, k))
    v = seen[:, 2 * n_qk :].view(len(seen), a.n_values, -1)
    decays, betas = torch.from_numpy(g).double(), torch.from_numpy(beta).double()
    return plain.delta_rule(q * a.key_dim**-0.5, k, v, decays, betas, state).flatten(1).numpy()


@pytest.mark.rungs
@pytest.mark.parametrize("sizes", SIZES)
def test_delta_rule(sizes: tuple[int, int, int, int, bool]) -> None:
    """Two sequences: one goes on, one begins; what the state held before is not read."""
    a, counts, pasts = delta_net_of(*sizes[:4], tiled=sizes[4]), (7, 6), (3, 0)
    mixed, (g, beta) = normal(13, a.convolution.channels), gates(13, a.n_values)
    kept = torch.from_numpy(normal(a.n_values, a.key_dim, a.value_dim, seed=2))
    state = State(2)
    state.fill([(n, past, PAGES) for n, past in zip(counts, pasts, strict=True)], [1, 0])
    blocks = a.n_values, a.n_blocks, a.key_dim, 16

    def make() -> tuple[Operation, list[np.ndarray]]:
        states = np.full((2, a.state_size), np.nan, np.float32)
        states[1, a.convolution.state_size :] = plain.blocks_of_columns(kept, 16).numpy().ravel()
        out = poisoned_vectors(13, a.n_values * a.value_dim)
        operands = (vectors_of(x) for x in (mixed, g, beta))
        return delta_rule(state.numbers, a, *operands, states, out), [out.floats, states]

    out, states = on_any_team(make)
    went, began = kept.double(), torch.zeros_like(kept).double()
    made = [wanted(a, mixed[:7], g[:7], beta[:7], went), wanted(a, mixed[7:], g[7:], beta[7:], began)]
    np.testing.assert_allclose(out[:, : a.n_values * a.value_dim], np.concatenate(made), rtol=1e-5, atol=1e-5)
    for row, left in ((1, went), (0, began)):
        found = torch.from_numpy(states[row, a.convolution.state_size :].reshape(blocks))
        np.testing.assert_allclose(plain.columns_of_blocks(found, a.value_dim), left, rtol=1e-5, atol=1e-5)


@pytest.mark.rungs
@pytest.mark.parametrize("sizes", SIZES)
def test_cuts_change_no_bit(sizes: tuple[int, int, int, int, bool]) -> None:
    a = delta_net_of(*sizes[:4], tiled=sizes[4])
    mixed, (g, beta) = normal(23, a.convolution.channels), gates(23, a.n_values)
    found = []
    for cuts in ([23], [1] * 23, [5, 1, 9, 8]):
        states, at, rows = np.full((1, a.state_size), np.nan, np.float32), 0, []
        for n in cuts:
            part, out = slice(at, at + n), poisoned_vectors(n, a.n_values * a.value_dim)
            run(delta_rule(state_of(n, at), a, *(vectors_of(x[part]) for x in (mixed, g, beta)), states, out))
            rows.append(out.floats[:, : a.n_values * a.value_dim])
            at += n
        found.append((np.concatenate(rows), states[:, a.convolution.state_size :]))
    for one in found[1:]:
        np.testing.assert_array_equal(one[0], found[0][0])
        np.testing.assert_array_equal(one[1], found[0][1])


@pytest.mark.rungs
def test_gates() -> None:
    """Also far out, where a decay is 0 or 1, and a beta, too."""
    alpha, beta = 30 * normal(5, 9), 60 * normal(5, 9, seed=1)
    decay, shift = -np.logspace(-3, 3, 9).astype(np.float32), normal(9, seed=2)
    first, second = vectors_of(alpha), vectors_of(beta)
    run(delta_gates(state_of(5), first, second, decay, shift))
    steps = np.logaddexp(0, (alpha + shift).astype(np.float64))
    np.testing.assert_allclose(first.floats[:, :9], np.exp(decay * steps), rtol=2e-4, atol=1e-30)
    np.testing.assert_allclose(second.floats[:, :9], 1 / (1 + np.exp(-beta.astype(np.float64))), rtol=1e-5, atol=1e-25)
