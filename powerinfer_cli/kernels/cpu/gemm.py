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

from powerinfer_cli.kernels.cpu.panels import (
    PANEL_BYTES,
    PANELS_AT,
    PIECE,
    SCRATCH_BYTES,
    TILE_AT,
    at_once,
    begin_tile,
    block_of,
    end_tile,
    filling,
    pack_fixed_token,
    pack_float_token,
    pack_token,
    stepping,
)
from powerinfer_cli.kernels.cpu.rows import COLUMNS, WeightRows
from powerinfer_cli.kernels.cpu.rows import ROWS as N_ROWS
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors, aligned
from powerinfer_cli.kernels.formats.kinds import FIXED, KINDS, Kind, fixed_of, kind_name, kind_of
from powerinfer_cli.kernels.formats.panels import BLOCK, FIXED_BLOCK, GROUP, ROWS, TOKENS
from powerinfer_cli.kernels.jit import Kernel, helper, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, i64

__all__ = ["Product", "Workspace", "gemm", "make_workspace"]

PACK = operands("state x x_bytes n stride packed")
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
    tile = max(-(-columns // wide) * size for wide, size in map(block_of, (*KINDS, FIXED)))
    return Workspace(
        aligned(-(-tokens // TOKENS) * tile), aligned(threads * SCRATCH_BYTES).reshape(threads, SCRATCH_BYTES)
    )


def gemm(
    state: npt.NDArray[np.int64], x: Vectors, products: Sequence[Product], workspace: Workspace, *, fixed: bool = False
) -> list[Operation]:
    """Products of matrices with the same vectors, for the first state[N_TOKENS] of them.

    fixed: weights of 16 bits and what they meet are multiplied in fixed point, as `formats.panels` has it. Rounding
    each to 1/4095 of the largest of 128 costs less than a thousandth of a product, and saves half of its time.
    """
    operations = []
    kinds = [(fixed_of if fixed else kind_of)(p.matrix.format) for p in products]
    for pack in _PACK.values():
        chosen = [(p, kind) for p, kind in zip(products, kinds, strict=True) if _PACK[block_of(kind)] is pack]
        if chosen:
            operations.append(_packing(state, x, workspace, pack))
            operations += [_product(state, p, kind, workspace, wait=p is chosen[-1][0]) for p, kind in chosen]
    return operations


def _packing(state: npt.NDArray[np.int64], x: Vectors, workspace: Workspace, pack: Kernel) -> Operation:
    given = x.records if pack is _PACK[32, BLOCK] else x.floats
    return Operation.of(
        pack,
        PACK,
        state=state,
        x=given,
        x_bytes=given.strides[0],
        n=x.n,
        stride=x.stride,
        packed=workspace.packed,
    )


def _product(state: npt.NDArray[np.int64], p: Product, kind: Kind, workspace: Workspace, wait: bool) -> Operation:
    return replace(
        Operation.of(
            _GEMM[kind],
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


def _pack(name: str, put: Any, columns: int, size: int) -> Kernel:
    """Vectors to tiles of tokens, of blocks of so many columns and bytes. A piece is a tile."""

    def pack(op_address, worker):
        op = i64(op_address)
        state, x, x_bytes, packed = i64(op[PACK.state]), op[PACK.x], op[PACK.x_bytes], op[PACK.packed]
        stride, blocks = op[PACK.stride], (op[PACK.n] + columns - 1) // columns
        while True:
            tile = take(op)
            if tile * TOKENS >= state[N_TOKENS]:
                return
            for t in range(TOKENS):
                present = tile * TOKENS + t < state[N_TOKENS]
                one = x + (tile * TOKENS + (t if present else 0)) * x_bytes
                put(one, stride, blocks, packed + tile * blocks * size, t, present)

    return kernel(OPERATION, name)(pack)


@helper
def _put_floats(x, stride, blocks, to, t, present):
    pack_float_token(x, blocks * 4, to, t)


@helper
def _put_fixed(x, stride, groups, to, t, present):
    pack_fixed_token(x, groups, to, t)


_PACK = {  # by the blocks that they make
    (32, BLOCK): _pack("gemm_pack", pack_token, 32, BLOCK),
    (32, 32 * TOKENS * 4): _pack("gemm_pack_floats", _put_floats, 32, 32 * TOKENS * 4),
    (GROUP, FIXED_BLOCK): _pack("gemm_pack_fixed", _put_fixed, GROUP, FIXED_BLOCK),
}


def _make(kind: Kind) -> Kernel:
    fill, step, most, (columns, block_bytes) = filling(kind), stepping(kind), at_once(kind), block_of(kind)

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
        n, blocks = rows[COLUMNS], (rows[COLUMNS] + columns - 1) // columns
        while True:
            first = take(op) * PIECE
            if first >= rows[N_ROWS]:
                return
            last = min(first + PIECE, rows[N_ROWS])
            for begin in range(0, n, most):
                end = min(begin + most, n)
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


_GEMM: dict[Kind, Kernel] = {kind: _make(kind) for kind in (*KINDS, FIXED)}
