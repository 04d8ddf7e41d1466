"""Many tokens times a matrix: weights are unpacked once for the batch, into panels that stay in the core's L2 cache.

A thread takes PIECE rows, unpacks a block of their columns, and goes over all tokens with it, TOKENS at a time; so
its panels and the tile of tokens are read from near caches. A number of the result is the sum over the matrix's
columns in their order, whatever the threads and the other tokens of the batch are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.rows import COLUMNS, UNPACK_ROW, WeightRows, row_address, unpack_row
from powerinfer_cli.kernels.cpu.rows import ROWS as N_ROWS
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors, aligned
from powerinfer_cli.kernels.formats.kinds import KINDS, Kind, kind_name, kind_of, offset_of
from powerinfer_cli.kernels.formats.panels import BIASES, BLOCK, HALF_BIASES, ROWS, SCALES, TOKENS
from powerinfer_cli.kernels.jit import Kernel, helper, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import (
    f32,
    i8,
    i32,
    i64,
    load32,
    load_f32,
    multiply,
    multiply_floats,
    splat,
    store32,
    store_f32,
    transposer,
    zero,
)

__all__ = [
    "COLUMNS_AT_ONCE",
    "FLOAT_COLUMNS_AT_ONCE",
    "PANELS_AT",
    "PANEL_BYTES",
    "PIECE",
    "SCRATCH_BYTES",
    "TILE_AT",
    "Product",
    "Workspace",
    "begin_tile",
    "end_tile",
    "fill_float_panel",
    "filling",
    "gemm",
    "make_workspace",
    "pack_float_token",
    "pack_token",
    "stepping",
]

PANELS = 2  # of a piece
PIECE = PANELS * ROWS
COLUMNS_AT_ONCE = 2048
FLOAT_COLUMNS_AT_ONCE = 512
_FEW = 2  # tokens: the tile's part for the last ones

_transpose = transposer(16)

# Bytes of a thread's scratch: staging for 16 unpacked rows, each a little apart from a power of two; then the panels.
_Q_STRIDE = COLUMNS_AT_ONCE + 64
_S_STRIDE = (COLUMNS_AT_ONCE // 16 + 16) * 4
_STAGED_S = 16 * _Q_STRIDE
_STAGED_M = _STAGED_S + 16 * _S_STRIDE
PANELS_AT = _STAGED_M + 16 * _S_STRIDE
_PANEL_S = PANELS_AT + COLUMNS_AT_ONCE * ROWS
_PANEL_M = _PANEL_S + COLUMNS_AT_ONCE // 16 * ROWS * 4
PANEL_BYTES = _PANEL_M + COLUMNS_AT_ONCE // 16 * ROWS * 4 - PANELS_AT
TILE_AT = PANELS_AT + PANELS * PANEL_BYTES
SCRATCH_BYTES = TILE_AT + TOKENS * ROWS * 4

PACK = operands("state records record_bytes n stride packed")
FLOATS = operands("state x stride n packed")
PRODUCT = operands("state rows packed out stride bias scratch")


@dataclass(frozen=True)
class Workspace:
    """What products need besides their operands; operations of one program share it."""

    packed: npt.NDArray[np.uint8]  # a batch of tokens as `panels` wants them
    scratch: npt.NDArray[np.uint8]  # [threads, bytes]


@dataclass(frozen=True)
class Product:
    """out[t, i] = matrix[i] . x[t] (+ bias[i]). out float32 [T, any stride >= n_rows]; nothing else is written."""

    matrix: WeightRows
    out: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32] | None = None


def make_workspace(threads: int, tokens: int, columns: int) -> Workspace:
    """For so many threads, tokens in a batch, and columns of the widest matrix."""
    blocks = -(-tokens // TOKENS) * -(-columns // 32)
    return Workspace(
        aligned(blocks * TOKENS * 32 * 4), aligned(threads * SCRATCH_BYTES).reshape(threads, SCRATCH_BYTES)
    )


def gemm(
    state: npt.NDArray[np.int64], x: Vectors, products: Sequence[Product], workspace: Workspace
) -> list[Operation]:
    """Products of matrices with the same vectors, for the first state[N_TOKENS] of them."""
    operations = []
    for is_float in (False, True):
        chosen = [p for p in products if p.matrix.format.is_float == is_float]
        if chosen:
            operations.append(_packing(state, x, workspace, is_float))
            operations += [_product(state, p, workspace, wait=p is chosen[-1]) for p in chosen]
    return operations


def _packing(state: npt.NDArray[np.int64], x: Vectors, workspace: Workspace, is_float: bool) -> Operation:
    if is_float:
        return Operation.of(
            _pack_floats,
            FLOATS,
            state=state,
            x=x.floats,
            stride=x.stride,
            n=x.n,
            packed=workspace.packed,
        )
    return Operation.of(
        _pack,
        PACK,
        state=state,
        records=x.records,
        record_bytes=x.records.shape[1],
        n=x.n,
        stride=x.stride,
        packed=workspace.packed,
    )


def _product(state: npt.NDArray[np.int64], p: Product, workspace: Workspace, wait: bool) -> Operation:
    f = p.matrix.format
    return replace(
        Operation.of(
            _GEMM[kind_of(f)],
            PRODUCT,
            state=state,
            rows=p.matrix,
            packed=workspace.packed,
            out=p.out,
            stride=p.out.shape[1],
            bias=p.bias,
            scratch=workspace.scratch,
        ),
        wait=wait,
    )


@helper
def pack_token(record, p, blocks, to, t, present):
    """A record of p columns as a tile's t-th token; nothing of it counts where it is not `present`."""
    q, d = i8(record), f32(record + p)
    sums, half_sums = i32(record + p + p // 8), i32(record + p + p // 4)
    for b in range(blocks):
        store32(i8(to), t * 32, load32(q, b * 32))
        f32(to + SCALES)[t] = d[b] if present else np.float32(0.0)
        i32(to + BIASES)[t] = sums[b] * -128
        i32(to + HALF_BIASES)[t] = half_sums[2 * b] * -128
        i32(to + HALF_BIASES)[TOKENS + t] = half_sums[2 * b + 1] * -128
        to += BLOCK


@helper
def pack_float_token(x, blocks, to, t):
    """float32 in blocks of 8 as a tile's t-th token."""
    for b in range(blocks):
        store32(i8(to), (b * TOKENS + t) * 32, load32(i8(x), b * 32))


@kernel(OPERATION, "gemm_pack")
def _pack(op_address, worker):
    """Records to tiles of tokens; zeros where there is no token. A piece is a tile."""
    op = i64(op_address)
    state, records, stride, n, p, packed = (
        i64(op[PACK.state]),
        op[PACK.records],
        op[PACK.record_bytes],
        op[PACK.n],
        op[PACK.stride],
        op[PACK.packed],
    )
    blocks = (n + 31) // 32
    while True:
        tile = take(op)
        if tile * TOKENS >= state[N_TOKENS]:
            return
        for t in range(TOKENS):
            present = tile * TOKENS + t < state[N_TOKENS]
            record = records + (tile * TOKENS + (t if present else 0)) * stride
            pack_token(record, p, blocks, packed + tile * blocks * BLOCK, t, present)


@kernel(OPERATION, "gemm_pack_floats")
def _pack_floats(op_address, worker):
    """float32 vectors, zeros behind n, to tiles of tokens."""
    op = i64(op_address)
    state, x, stride, n, packed = (
        i64(op[FLOATS.state]),
        op[FLOATS.x],
        op[FLOATS.stride],
        op[FLOATS.n],
        op[FLOATS.packed],
    )
    blocks = (n + 31) // 32 * 4
    while True:
        tile = take(op)
        if tile * TOKENS >= state[N_TOKENS]:
            return
        for t in range(TOKENS):
            present = tile * TOKENS + t < state[N_TOKENS]
            row = x + (tile * TOKENS + (t if present else 0)) * stride * 4
            pack_float_token(row, blocks, packed + tile * blocks * TOKENS * 32, t)


def filling(kind: Kind) -> Any:
    """fill(rows, first, begin, end, scratch, panel, worker): unpack columns begin..end of the rows from `first` on.

    Lanes of rows that are not there hold anything.
    """
    group, has_min, bits = kind
    transpose_quants = transposer(16, offset_of(bits, has_min))

    @helper
    def fill(rows, first, begin, end, scratch, panel, worker):
        scales, mins = panel + _PANEL_S - PANELS_AT, panel + _PANEL_M - PANELS_AT
        for half in range(2):
            row = first + half * 16
            if row >= rows[N_ROWS]:
                break
            for r in range(min(16, rows[N_ROWS] - row)):
                staged = scratch + r * _Q_STRIDE
                s, m = scratch + _STAGED_S + r * _S_STRIDE, scratch + _STAGED_M + r * _S_STRIDE
                address = row_address(rows, row + r, worker)
                unpack_row(rows[UNPACK_ROW], address, rows[COLUMNS], begin, end, staged, s, m)
            for c in range(0, end - begin, 64):
                transpose_quants(scratch + c, _Q_STRIDE, panel + c * ROWS + half * 64, ROWS * 4)
            for g in range(0, (end - begin) // group, 16):
                at = (g * ROWS + half * 16) * 4
                _transpose(scratch + _STAGED_S + g * 4, _S_STRIDE, scales + at, ROWS * 4)
                if has_min:
                    _transpose(scratch + _STAGED_M + g * 4, _S_STRIDE, mins + at, ROWS * 4)
        if has_min:
            for i in range(0, (end - begin) // group * ROWS, 16):
                store_f32(f32(mins), i, load_f32(f32(mins), i) * splat(np.float32(-1 / 128)))

    return fill


@helper
def fill_float_panel(rows, first, begin, end, scratch, panel, worker):
    """The same for float formats; weights behind the last column are 0."""
    for half in range(2):
        row = first + half * 16
        if row >= rows[N_ROWS]:
            return
        for r in range(min(16, rows[N_ROWS] - row)):
            staged = scratch + r * _Q_STRIDE
            unpack_row(rows[UNPACK_ROW], row_address(rows, row + r, worker), rows[COLUMNS], begin, end, staged, 0, 0)
            for c in range(end - begin, (end - begin + 15) // 16 * 16):
                f32(staged)[c] = 0.0
        for c in range(0, end - begin, 16):
            _transpose(scratch + c * 4, _Q_STRIDE, panel + (c * ROWS + half * 16) * 4, ROWS * 4)


@helper
def begin_tile(tile, out, stride, tokens, first, rows, bias, column):
    """The tile's sums so far: before the first column the bias, later what `out` holds."""
    for i in range(0, TOKENS * ROWS, 16):
        store_f32(tile, i, zero())
    if column == 0 and bias == 0:
        return
    source = out if column else f32(bias)
    for t in range(tokens):
        at = first + (t * stride if column else 0)
        if rows == ROWS:
            store_f32(tile, t * ROWS, load_f32(source, at))
            store_f32(tile, t * ROWS + 16, load_f32(source, at + 16))
        else:
            for i in range(rows):
                tile[t * ROWS + i] = source[at + i]


@helper
def end_tile(tile, out, stride, tokens, first, rows):
    for t in range(tokens):
        at = t * stride + first
        if rows == ROWS:
            store_f32(out, at, load_f32(tile, t * ROWS))
            store_f32(out, at + 16, load_f32(tile, t * ROWS + 16))
        else:
            for i in range(rows):
                out[at + i] = tile[t * ROWS + i]


def stepping(kind: Kind) -> Any:
    """step(x, begin, end, tokens, panel, tile): tile += packed tokens times columns begin..end, unpacked in a panel."""
    group = kind[0]
    many, few = (multiply(n, *kind) if group else multiply_floats(n) for n in (TOKENS, _FEW))

    @helper
    def step(x, begin, end, tokens, panel, tile):
        block, scales, mins = x + begin // 32 * BLOCK, panel + _PANEL_S - PANELS_AT, panel + _PANEL_M - PANELS_AT
        if tokens > _FEW:
            many(block, panel, scales, mins, (end - begin) // 32, tile)
        else:
            few(block, panel, scales, mins, (end - begin) // 32, tile)

    @helper
    def step_floats(x, begin, end, tokens, panel, tile):
        block = x + begin * TOKENS * 4
        if tokens > _FEW:
            many(block, panel, (end - begin + 7) // 8, tile)
        else:
            few(block, panel, (end - begin + 7) // 8, tile)

    return step if group else step_floats


def _make(kind: Kind) -> Kernel:
    is_float = kind[0] == 0
    fill, step = fill_float_panel if is_float else filling(kind), stepping(kind)
    at_once = FLOAT_COLUMNS_AT_ONCE if is_float else COLUMNS_AT_ONCE
    block_bytes = 32 * TOKENS * 4 if is_float else BLOCK

    @helper
    def add_tile(x, begin, end, tokens, panel, tile, out, stride, row, rows, bias):
        """Tokens' products with columns begin..end of a panel's rows, added to `out`."""
        begin_tile(f32(tile), out, stride, tokens, row, rows, bias, begin)
        step(x, begin, end, tokens, panel, tile)
        end_tile(f32(tile), out, stride, tokens, row, rows)

    def product(op_address, worker):
        op = i64(op_address)
        state, rows, packed = i64(op[PRODUCT.state]), i64(op[PRODUCT.rows]), op[PRODUCT.packed]
        out, stride, bias = op[PRODUCT.out], op[PRODUCT.stride], op[PRODUCT.bias]
        scratch = op[PRODUCT.scratch] + worker * SCRATCH_BYTES
        n, blocks = rows[COLUMNS], (rows[COLUMNS] + 31) // 32
        while True:
            first = take(op) * PIECE
            if first >= rows[N_ROWS]:
                return
            last = min(first + PIECE, rows[N_ROWS])
            for begin in range(0, n, at_once):
                end = min(begin + at_once, n)
                panel = scratch + PANELS_AT
                for row in range(first, last, ROWS):
                    fill(rows, row, begin, end, scratch, panel + (row - first) // ROWS * PANEL_BYTES, worker)
                for t in range(0, state[N_TOKENS], TOKENS):
                    tokens = min(TOKENS, state[N_TOKENS] - t)
                    x, target = packed + t // TOKENS * blocks * block_bytes, f32(out + t * stride * 4)
                    for row in range(first, last, ROWS):
                        here = panel + (row - first) // ROWS * PANEL_BYTES
                        count = min(ROWS, last - row)
                        add_tile(x, begin, end, tokens, here, scratch + TILE_AT, target, stride, row, count, bias)

    return kernel(OPERATION, f"gemm_{kind_name(kind)}")(product)


_GEMM: dict[Kind, Kernel] = {kind: _make(kind) for kind in KINDS}
