"""Up rows of chosen experts with exact zeros, for one token or a few: those of neurons whose gates are closed for all
that chose the expert are not read. Open ones are scattered over memory: each is asked for some rows before it is read.
"""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.experts.routing import N_USED, Routes
from powerinfer_cli.kernels.cpu.matvec import input_of, stride_of
from powerinfer_cli.kernels.cpu.rows import BASE, COLUMNS, DOT_ROW, ROW_BYTES, STRIDE, WeightRows, dot_row, row_address
from powerinfer_cli.kernels.cpu.shares import fetch
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, i32, i64
from powerinfer_cli.model.blocks import Linear

__all__ = ["open_ups"]

UPS = operands("rows x x_bytes bias n_chosen starts order used counts ff gates ups stride")
_PIECE = 64  # neurons of an expert
_ROWS_AHEAD = 3


def open_ups(
    x: Vectors, up: Linear[WeightRows, npt.NDArray[np.float32]], routes: Routes, ff: int, gates: Vectors, ups: Vectors
) -> Operation:
    """ups = up @ x for each pair of `routes`, 0 where its gate is closed. gates, ups: a vector a pair, as ordered."""
    return Operation.of(
        _open_ups,
        UPS,
        rows=up.weight,
        x=input_of(up.weight, x),
        x_bytes=stride_of(up.weight, x),
        bias=up.bias,
        n_chosen=routes.n_chosen,
        starts=routes.starts,
        order=routes.order,
        used=routes.used,
        counts=routes.counts,
        ff=ff,
        gates=gates.floats,
        ups=ups.floats,
        stride=ups.stride,
    )


@helper
def _next_open(op, first_pair, end_pair, c, end):
    """Of an expert's neurons c..end-1 the first whose gate is open for one of its pairs; end: there is none."""
    gates, stride = f32(op[UPS.gates]), op[UPS.stride]
    while c < end:
        for p in range(first_pair, end_pair):
            if not gates[p * stride + c] <= np.float32(0.0):
                return c
        c += 1
    return end


@kernel(OPERATION, "experts_open_ups")
def _open_ups(op_address, worker):
    """A piece is some neurons of an expert in use."""
    op = i64(op_address)
    rows, ff, stride, n_chosen = i64(op[UPS.rows]), op[UPS.ff], op[UPS.stride], op[UPS.n_chosen]
    starts, order, gates, ups = i32(op[UPS.starts]), i32(op[UPS.order]), f32(op[UPS.gates]), f32(op[UPS.ups])
    pieces, n_used = (ff + _PIECE - 1) // _PIECE, i64(op[UPS.counts])[N_USED]
    while True:
        piece = take(op)
        if piece >= n_used * pieces:
            return
        expert = np.int64(i32(op[UPS.used])[piece // pieces])
        first_pair, end_pair = np.int64(starts[expert]), np.int64(starts[expert + 1])
        c = piece % pieces * _PIECE
        end = min(c + _PIECE, ff)
        base, row_bytes = rows[BASE] + expert * ff * rows[STRIDE], rows[STRIDE]
        following = _next_open(op, first_pair, end_pair, c, end)
        asked = following
        for _ in range(_ROWS_AHEAD):
            if asked < end:
                fetch(base + asked * row_bytes, rows[ROW_BYTES])
                asked = _next_open(op, first_pair, end_pair, asked + 1, end)
        while c < end:
            if c < following:
                for p in range(first_pair, end_pair):
                    ups[p * stride + c] = np.float32(0.0)
                c += 1
                continue
            ahead = base + (asked if asked < end else c) * row_bytes
            address = row_address(rows, expert * ff + c, worker)
            for p in range(first_pair, end_pair):
                value = np.float32(0.0)
                if not gates[p * stride + c] <= np.float32(0.0):
                    at = op[UPS.x] + np.int64(order[p]) // n_chosen * op[UPS.x_bytes]
                    value = dot_row(rows[DOT_ROW], address, at, rows[COLUMNS], ahead)
                    ahead = address
                    if op[UPS.bias]:
                        value += f32(op[UPS.bias])[expert * ff + c]
                ups[p * stride + c] = value
            if asked < end:
                asked = _next_open(op, first_pair, end_pair, asked + 1, end)
            c += 1
            following = _next_open(op, first_pair, end_pair, c, end)
