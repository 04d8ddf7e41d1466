"""Parts of heads: moved between vectors, and each head's times a matrix of its own."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.matvec import input_of, stride_of
from powerinfer_cli.kernels.cpu.rows import COLUMNS, DOT_ROW, STRIDE, WeightRows, dot_row, row_address
from powerinfer_cli.kernels.cpu.shares import AHEAD_BYTES
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.jit import kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, i64

__all__ = ["move_heads", "multiply_heads"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_ROWS_AT_ONCE = 32  # of a head's matrix, that a thread claims at a time

MOVE = operands("state source source_stride source_step out out_stride out_step n_heads n counts")
MULTIPLY = operands("state rows x x_bytes n_heads size out out_stride out_step")


def move_heads(
    state: Ints,
    source: Floats,
    source_step: int,
    out: Floats,
    out_step: int,
    n_heads: int,
    n: int,
    counts: Ints | None = None,
) -> Operation:
    """out[t, h * out_step + i] = source[t, h * source_step + i] for i below n.

    source and out float32 [T, ...], or views of their columns. counts: is told how many heads all tokens have.
    """
    return Operation.of(
        _move,
        MOVE,
        state=state,
        source=source,
        source_stride=source.strides[0] // 4,
        source_step=source_step,
        out=out,
        out_stride=out.strides[0] // 4,
        out_step=out_step,
        n_heads=n_heads,
        n=n,
        counts=counts,
    )


def multiply_heads(state: Ints, rows: WeightRows, x: Vectors, n_heads: int, out: Floats, out_step: int) -> Operation:
    """out[t, h * out_step + i] = row i of head h's . x[t * n_heads + h]; rows: a head's behind another's.

    out float32 [T, ...], or a view of its columns. Each row is read once for all tokens, and each token's product is
    what it is alone, to the bit.
    """
    return Operation.of(
        _multiply,
        MULTIPLY,
        state=state,
        rows=rows,
        x=input_of(rows, x),
        x_bytes=stride_of(rows, x),
        n_heads=n_heads,
        size=rows.n_rows // n_heads,
        out=out,
        out_stride=out.strides[0] // 4,
        out_step=out_step,
    )


@kernel(OPERATION, "move_heads")
def _move(op_address, worker):
    """A piece is a token."""
    op = i64(op_address)
    tokens, n_heads, n = i64(op[MOVE.state])[N_TOKENS], op[MOVE.n_heads], op[MOVE.n]
    while True:
        t = take(op)
        if t >= tokens:
            return
        if t == 0 and op[MOVE.counts]:
            i64(op[MOVE.counts])[N_TOKENS] = tokens * n_heads
        source = f32(op[MOVE.source] + t * op[MOVE.source_stride] * 4)
        out = f32(op[MOVE.out] + t * op[MOVE.out_stride] * 4)
        for h in range(n_heads):
            for i in range(n):
                out[h * op[MOVE.out_step] + i] = source[h * op[MOVE.source_step] + i]


@kernel(OPERATION, "multiply_heads")
def _multiply(op_address, worker):
    """A piece is some rows of one head."""
    op = i64(op_address)
    rows, tokens, n_heads, size = (
        i64(op[MULTIPLY.rows]),
        i64(op[MULTIPLY.state])[N_TOKENS],
        op[MULTIPLY.n_heads],
        op[MULTIPLY.size],
    )
    x, x_bytes, out, stride = op[MULTIPLY.x], op[MULTIPLY.x_bytes], f32(op[MULTIPLY.out]), op[MULTIPLY.out_stride]
    pieces = (size + _ROWS_AT_ONCE - 1) // _ROWS_AT_ONCE
    while True:
        piece = take(op)
        if piece >= pieces * n_heads:
            return
        head, first = piece // pieces, piece % pieces * _ROWS_AT_ONCE
        for i in range(first, min(first + _ROWS_AT_ONCE, size)):
            address = row_address(rows, head * size + i, worker)
            for t in range(tokens):
                ahead = address + rows[STRIDE] + AHEAD_BYTES if t == 0 else address
                value = dot_row(rows[DOT_ROW], address, x + (t * n_heads + head) * x_bytes, rows[COLUMNS], ahead)
                out[t * stride + head * op[MULTIPLY.out_step] + i] = value
