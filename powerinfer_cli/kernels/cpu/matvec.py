"""A token, or a few, times a matrix: out = W x (+ bias), row by row, as fast as memory delivers the rows.

A row is read once for all tokens, and each token's product is what it is alone, to the bit.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels import few
from powerinfer_cli.kernels.cpu.rows import (
    BASE,
    COLUMNS,
    DOT_ROW,
    GROUP,
    REPACK_ROW,
    ROWS,
    STRIDE,
    Bundled,
    WeightRows,
    dot_few,
    dot_row,
    row_address,
)
from powerinfer_cli.kernels.cpu.shares import AHEAD_BYTES, fetch, share
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors, aligned
from powerinfer_cli.kernels.cpu.whole import WHOLE, matvec_whole
from powerinfer_cli.kernels.formats.format import ROWS_AT_ONCE
from powerinfer_cli.kernels.formats.token_panels import FOUR_PAY, INPUTS, pack_tokens, panel_bytes
from powerinfer_cli.kernels.jit import kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import address_of, f32, i64, stack_f32

__all__ = ["input_of", "matvec", "matvec_few", "stride_of", "token_panels"]

ONE = operands("rows x out bias threads")
FEW = operands("state rows dot x x_bytes panels panels_bytes out out_bytes bias threads")


def input_of(rows: WeightRows, x: Vectors) -> npt.NDArray[np.generic]:
    """What a matrix's dot products take: floats or records."""
    return x.floats if rows.format.is_float else x.records


def matvec(
    rows: WeightRows,
    x: Vectors,
    out: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None = None,
    *,
    threads: int = 1,
    wait: bool = True,
) -> Operation:
    """out[i] = W[i] . x[0] (+ bias[i]). The first of x's vectors; out float32 [n_rows], or the first row of more.

    threads: for how many the rows are cut into shares; the result is the same for any.
    """
    if rows.bundled is not None:
        return _whole(None, rows, x, out, bias, None, threads, wait)
    return replace(
        Operation.of(
            _matvec,
            ONE,
            rows=rows,
            x=input_of(rows, x),
            out=out,
            bias=bias,
            threads=threads,
        ),
        wait=wait,
    )


def stride_of(rows: WeightRows, x: Vectors) -> int:
    """Bytes from one token's input of a matrix's dot products to the next one's."""
    return int(input_of(rows, x).strides[0])


def matvec_few(
    state: npt.NDArray[np.int64],
    rows: WeightRows,
    x: Vectors,
    out: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None = None,
    *,
    panels: npt.NDArray[np.uint8],
    threads: int = 1,
    wait: bool = True,
) -> Operation:
    """out[t, i] = W[i] . x[t] (+ bias[i]), for each of the batch's tokens; as `matvec` of each.

    panels: `token_panels`, which others may use in turn.
    """
    if panels.strides[0] < panel_bytes(rows.n_cols):
        raise ValueError(f"panels of {panels.strides[0]} bytes for {rows.n_cols} columns")
    if rows.bundled is not None:
        return _whole(state, rows, x, out, bias, panels, threads, wait)
    return replace(
        Operation.of(
            _matvec_few,
            FEW,
            state=state,
            rows=rows,
            dot=rows.format.dot_few.address,
            x=input_of(rows, x),
            x_bytes=stride_of(rows, x),
            panels=panels,
            panels_bytes=panels.strides[0],
            out=out,
            out_bytes=out.strides[0],
            bias=bias,
            threads=threads,
        ),
        wait=wait,
    )


def _whole(
    state: npt.NDArray[np.int64] | None,
    rows: WeightRows,
    x: Vectors,
    out: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    panels: npt.NDArray[np.uint8] | None,
    threads: int,
    wait: bool,
) -> Operation:
    """Of a matrix in bundles. Raises ValueError: they are for asking."""
    if rows.bundled is not Bundled.WHOLE:
        raise ValueError(f"bundles are {rows.bundled}")
    return replace(
        Operation.of(
            matvec_whole,
            WHOLE,
            state=state,
            rows=rows,
            x=x.records,
            x_bytes=stride_of(rows, x),
            panels=panels,
            panels_bytes=0 if panels is None else panels.strides[0],
            out=out,
            out_bytes=out.strides[0],
            bias=bias,
            threads=threads,
        ),
        wait=wait,
    )


def token_panels(threads: int, n: int) -> npt.NDArray[np.uint8]:
    """Room for as many threads to have FEW tokens side by side: up to INPUTS of their vectors, of up to n numbers."""
    return aligned(threads * INPUTS * panel_bytes(n)).reshape(threads, -1)


@kernel(OPERATION, "matvec")
def _matvec(op_address, worker):
    """The next share is claimed when the first byte of it is to be asked for. Behind the last share that is what lies
    behind the matrix: where weights lie in the order of their use, it is wanted next.
    """
    op = i64(op_address)
    rows, x, out, bias, threads = i64(op[ONE.rows]), op[ONE.x], f32(op[ONE.out]), op[ONE.bias], op[ONE.threads]
    n, base, stride = rows[ROWS], rows[BASE], rows[STRIDE]
    begin, end = share(take(op), threads, n)
    fetch(base + begin * stride, min(AHEAD_BYTES, (end - begin) * stride))
    while begin < n:
        claimed, next_begin, next_end = False, end, end
        for i in range(begin, end):
            beyond = (i - end) * stride + AHEAD_BYTES  # the end of this share
            if beyond >= 0 and not claimed:
                claimed, (next_begin, next_end) = True, share(take(op), threads, n)
            ahead = base + next_begin * stride + beyond
            value = dot_row(rows[DOT_ROW], row_address(rows, i, worker), x, rows[COLUMNS], ahead)
            out[i] = value + f32(bias)[i] if bias else value
        if not claimed:
            next_begin, next_end = share(take(op), threads, n)
        begin, end = next_begin, next_end


@kernel(OPERATION, "matvec_few")
def _matvec_few(op_address, worker):
    """As `_matvec`, all tokens at once: each thread has them in panels of its own, and takes some rows at a time."""
    op = i64(op_address)
    rows, out, out_bytes, bias, threads = (
        i64(op[FEW.rows]),
        op[FEW.out],
        op[FEW.out_bytes],
        op[FEW.bias],
        op[FEW.threads],
    )
    n_tokens, panels = i64(op[FEW.state])[N_TOKENS], op[FEW.panels] + worker * op[FEW.panels_bytes]
    xs, found = i64(address_of(stack_f32(32))), f32(address_of(stack_f32(128)))  # FEW; ROWS_AT_ONCE of as many
    n, base, stride, columns = rows[ROWS], rows[BASE], rows[STRIDE], rows[COLUMNS]
    at_once = 1 if rows[REPACK_ROW] else ROWS_AT_ONCE  # there is room for one rearranged row only
    begin, end = share(take(op), threads, n)
    if begin < n:
        fetch(base + begin * stride, min(at_once, end - begin) * stride)
        for t in range(n_tokens):
            xs[t] = op[FEW.x] + t * op[FEW.x_bytes]
        if n_tokens >= FOUR_PAY:
            pack_tokens(rows[GROUP], address_of(xs), n_tokens, columns, panels)
    while begin < n:
        next_begin, next_end = share(take(op), threads, n) if begin == end else (end, end)
        for i in range(begin, end, at_once):
            count = min(at_once, end - i)
            if i + count == end:
                next_begin, next_end = share(take(op), threads, n)
            ahead = base + (next_begin if i + count == end else i + count) * stride
            row = row_address(rows, i, worker)
            if n_tokens < FOUR_PAY:
                for r in range(count):
                    for t in range(n_tokens):
                        there = ahead + r * stride if t == 0 else row
                        found[r * few.FEW + t] = dot_row(rows[DOT_ROW], row + r * stride, xs[t], columns, there)
            else:
                dot_few(op[FEW.dot], row, stride, count, panels, n_tokens, columns, ahead, address_of(found))
            for t in range(n_tokens):
                for r in range(count):
                    value = found[r * few.FEW + t]
                    f32(out + t * out_bytes)[i + r] = value + f32(bias)[i + r] if bias else value
        begin, end = next_begin, next_end
