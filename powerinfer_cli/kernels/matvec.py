"""One token times a matrix: out = W x (+ bias), row by row, as fast as memory delivers the rows."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.program import Operation
from powerinfer_cli.kernels.rows import BASE, COLUMNS, DOT_ROW, ROWS, STRIDE, WeightRows, dot_row, row_address
from powerinfer_cli.kernels.simd import f32, i64, prefetch
from powerinfer_cli.kernels.team import FIRST, OPERATION, take
from powerinfer_cli.kernels.vectors import Vectors

__all__ = ["fetch", "input_of", "matvec", "rows_per_piece"]

PIECE_BYTES = 48 << 10  # of rows that a thread claims at a time
AHEAD_BYTES = 4096  # what is asked of memory before it is read: a fifth faster than what the CPU does by itself


def input_of(rows: WeightRows, x: Vectors) -> npt.NDArray[np.generic]:
    """What a matrix's dot products take: floats or records."""
    return x.floats if rows.format.is_float else x.records


def rows_per_piece(rows: WeightRows) -> int:
    return max(1, PIECE_BYTES // rows.stride)


def matvec(
    rows: WeightRows,
    x: Vectors,
    out: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None = None,
    *,
    wait: bool = True,
) -> Operation:
    """out[i] = W[i] . x[0] (+ bias[i]). The first of x's vectors; out float32 [n_rows], or the first row of more."""
    return Operation(_matvec, (rows, input_of(rows, x), out, bias, rows_per_piece(rows)), wait)


@helper
def fetch(address, n_bytes):
    """Ask memory for so many bytes, which will be read soon."""
    for at in range(0, n_bytes, 64):
        prefetch(address + at)


@kernel(OPERATION, "matvec")
def _matvec(op_address, worker):
    op = i64(op_address)
    rows, x, out, bias, piece = i64(op[FIRST]), op[FIRST + 1], f32(op[FIRST + 2]), op[FIRST + 3], op[FIRST + 4]
    while True:
        begin = take(op) * piece
        if begin >= rows[ROWS]:
            return
        for i in range(begin, min(begin + piece, rows[ROWS])):
            fetch(rows[BASE] + i * rows[STRIDE] + AHEAD_BYTES, rows[STRIDE])
            value = dot_row(rows[DOT_ROW], row_address(rows, i, worker), x, rows[COLUMNS])
            out[i] = value + f32(bias)[i] if bias else value
