"""What neurons are for many tokens, as rows of all neurons: read off the sparse FFN's lists, and put back into them."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.sparse.batch import BLOCK, ROOM, SparseWorkspace
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS
from powerinfer_cli.kernels.jit import Kernel, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, i32, i64

__all__ = ["gather_values", "spread_values"]

SPREAD = operands("state n_ff counts sizes chosen factors most rows stride")


def spread_values(state: npt.NDArray[np.int64], workspace: SparseWorkspace, out: npt.NDArray[np.float32]) -> Operation:
    """After `sparse_values`: out[t, i] = what neuron i was for token t, 0 where it was not. out float32 [T, n_ff]."""
    return _between_rows_and_lists(_spread, state, workspace, out)


def gather_values(
    state: npt.NDArray[np.int64], workspace: SparseWorkspace, values: npt.NDArray[np.float32]
) -> Operation:
    """Before `add_rows`: neuron i is values[t, i] for token t, whatever it was. values float32 [T, n_ff]."""
    return _between_rows_and_lists(_gather, state, workspace, values)


def _between_rows_and_lists(
    work: Kernel, state: npt.NDArray[np.int64], w: SparseWorkspace, rows: npt.NDArray[np.float32]
) -> Operation:
    return Operation.of(
        work,
        SPREAD,
        state=state,
        n_ff=len(w.counts),
        counts=w.counts,
        sizes=w.sizes,
        chosen=w.chosen,
        factors=w.factors,
        most=w.sizes.shape[1],
        rows=rows,
        stride=rows.shape[1],
    )


@kernel(OPERATION, "sparse_spread")
def _spread(op_address, worker):
    """Tokens' lists of neurons to rows of all neurons. A piece is a token."""
    op = i64(op_address)
    state, n_ff, most, stride = i64(op[SPREAD.state]), op[SPREAD.n_ff], op[SPREAD.most], op[SPREAD.stride]
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        row = f32(op[SPREAD.rows] + t * stride * 4)
        for i in range(n_ff):
            row[i] = 0.0
        for first in range(0, n_ff, BLOCK):
            at = first // BLOCK * most + t
            chosen, factors = i32(op[SPREAD.chosen] + at * ROOM * 4), f32(op[SPREAD.factors] + at * ROOM * 4)
            for k in range(i32(op[SPREAD.sizes])[at]):
                row[first + chosen[k]] = factors[k]


@kernel(OPERATION, "sparse_gather")
def _gather(op_address, worker):
    """Rows of all neurons to tokens' lists of those that are not 0. A piece is a token."""
    op = i64(op_address)
    state, n_ff, most, stride = i64(op[SPREAD.state]), op[SPREAD.n_ff], op[SPREAD.most], op[SPREAD.stride]
    counts = i32(op[SPREAD.counts])
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        row = f32(op[SPREAD.rows] + t * stride * 4)
        for first in range(0, n_ff, BLOCK):
            at = first // BLOCK * most + t
            chosen, factors = i32(op[SPREAD.chosen] + at * ROOM * 4), f32(op[SPREAD.factors] + at * ROOM * 4)
            size = 0
            for i in range(first, min(first + BLOCK, n_ff)):
                if row[i] != np.float32(0.0):
                    chosen[size], factors[size] = i - first, row[i]
                    counts[i] = 1  # somebody needs its row, whoever says so
                    size += 1
            i32(op[SPREAD.sizes])[at] = size
