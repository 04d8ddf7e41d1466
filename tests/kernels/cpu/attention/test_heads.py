"""Parts of heads moved, and multiplied each by a matrix of its own, against float64."""

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cpu.attention.heads import move_heads, multiply_heads
from powerinfer_cli.kernels.cpu.attention.heads_batch import head_columns, heads_batch
from powerinfer_cli.kernels.cpu.gemm import make_workspace
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS
from powerinfer_cli.kernels.jit.program import assemble
from tests.helpers.kernels.kernel_data import random_vectors, values_for, weight_rows
from tests.helpers.kernels.teams import team_of

pytestmark = pytest.mark.rungs
TEAM = team_of(3)


def state_of(tokens: int) -> np.ndarray:
    state = np.zeros(N_TOKENS + 2, np.int64)
    state[N_TOKENS] = tokens
    return state


@pytest.mark.parametrize("tokens", [1, 5])
def test_moving(tokens: int) -> None:
    source = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    out, counts = np.full((6, 50), np.nan, np.float32), np.zeros(N_TOKENS + 1, np.int64)
    TEAM.run(assemble([move_heads(state_of(tokens), source[:, 3:], 9, out[:, 2:], 11, 4, 7, counts)]).table)
    wanted = np.full((6, 50), np.nan, np.float32)
    for h in range(4):
        wanted[:tokens, 2 + 11 * h : 9 + 11 * h] = source[:tokens, 3 + 9 * h : 10 + 9 * h]
    np.testing.assert_array_equal(out, wanted)
    assert counts[N_TOKENS] == 4 * tokens


@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.F16, GGMLType.Q4_0, GGMLType.Q8_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize(("tokens", "threads", "many"), [(1, 0, False), (5, 0, False), (5, 3, False), (21, 3, True)])
@pytest.mark.parametrize(("n_heads", "size", "n"), [(4, 70, 64), (1, 5, 96), (3, 1, 32), (2, 33, 544)])
def test_products(kind: GGMLType, tokens: int, threads: int, many: bool, n_heads: int, size: int, n: int) -> None:
    rows, numbers = weight_rows(kind, n_heads * size, n, 1, threads)
    x, step = random_vectors((tokens + 1) * n_heads, n), size + 3
    out = np.full((tokens + 1, 2 + n_heads * step), np.nan, np.float32)

    def products(tokens: int, out: np.ndarray) -> np.ndarray:
        operands = state_of(tokens), rows, x, n_heads, out[:, 2:], step
        room = make_workspace(threads, tokens, head_columns(n_heads, n)) if many else None
        made = [multiply_heads(*operands)] if room is None else heads_batch(*operands, room)
        kept.append((operands, room))
        return assemble(made).table

    kept: list[object] = []
    TEAM.run(products(tokens, out), max(threads, 1))
    given = values_for(kind, x)[: tokens * n_heads].reshape(tokens, n_heads, n)
    weights = numbers.reshape(n_heads, size, n)
    wanted = np.einsum("thn,hin->thi", given, weights)
    terms = np.einsum("thn,hin->thi", np.abs(given), np.abs(weights))
    found = out[:tokens, 2:].reshape(tokens, n_heads, step)
    assert (np.abs(found[:, :, :size] - wanted) <= 3e-6 * np.maximum(1, terms)).all()
    assert np.isnan(found[:, :, size:]).all()
    assert np.isnan(out[tokens:]).all()
    assert np.isnan(out[:, :2]).all()
    if tokens > 1:
        alone = np.full_like(out, np.nan)
        TEAM.run(products(1, alone))
        np.testing.assert_array_equal(alone[0], out[0])
