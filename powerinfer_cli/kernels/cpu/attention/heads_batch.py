"""Each head of many tokens times a matrix of its own: as `gemm`, whose panels and tiles it has, head by head."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.gemm import Workspace
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
    pack_float_token,
    pack_token,
    stepping,
)
from powerinfer_cli.kernels.cpu.rows import COLUMNS, WeightRows
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.formats.kinds import KINDS, Kind, kind_name, kind_of
from powerinfer_cli.kernels.formats.panels import BLOCK, ROWS, TOKENS
from powerinfer_cli.kernels.jit import Kernel, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, i64

__all__ = ["head_columns", "heads_batch"]

PACK = operands("state x x_bytes n stride floats n_heads packed")
PRODUCT = operands("state rows packed size n_heads out out_stride out_step scratch")


def head_columns(n_heads: int, n: int) -> int:
    """As many columns as a workspace's widest matrix must have at least, for heads of n numbers."""
    return n_heads * (-(-n // 32) * 32)


def heads_batch(
    state: npt.NDArray[np.int64],
    rows: WeightRows,
    x: Vectors,
    n_heads: int,
    out: npt.NDArray[np.float32],
    out_step: int,
    workspace: Workspace,
) -> list[Operation]:
    """As `multiply_heads`, in another order of each product's sum."""
    floats = rows.format.is_float
    given = x.floats if floats else x.records
    return [
        Operation.of(
            _pack,
            PACK,
            state=state,
            x=given,
            x_bytes=given.strides[0],
            n=x.n,
            stride=x.stride,
            floats=floats,
            n_heads=n_heads,
            packed=workspace.packed,
        ),
        Operation.of(
            _PRODUCTS[kind_of(rows.format)],
            PRODUCT,
            state=state,
            rows=rows,
            packed=workspace.packed,
            size=rows.n_rows // n_heads,
            n_heads=n_heads,
            out=out,
            out_stride=out.strides[0] // 4,
            out_step=out_step,
            scratch=workspace.scratch,
        ),
    ]


@kernel(OPERATION, "heads_pack")
def _pack(op_address, worker):
    """Vectors, a token's heads one behind another, to tiles of tokens, head by head. A piece is a tile."""
    op = i64(op_address)
    tokens, n_heads, x, x_bytes = i64(op[PACK.state])[N_TOKENS], op[PACK.n_heads], op[PACK.x], op[PACK.x_bytes]
    blocks, tiles = (op[PACK.n] + 31) // 32, (tokens + TOKENS - 1) // TOKENS
    while True:
        piece = take(op)
        if piece >= tiles * n_heads:
            return
        head, first = piece // tiles, piece % tiles * TOKENS
        for t in range(TOKENS):
            present = first + t < tokens
            vector = x + ((first + (t if present else 0)) * n_heads + head) * x_bytes
            if op[PACK.floats]:
                pack_float_token(vector, blocks * 4, op[PACK.packed] + piece * blocks * TOKENS * 128, t)
            else:
                pack_token(vector, op[PACK.stride], blocks, op[PACK.packed] + piece * blocks * BLOCK, t, present)


def _make(kind: Kind) -> Kernel:
    fill, step, most, (_, block_bytes) = filling(kind), stepping(kind), at_once(kind), block_of(kind)

    def product(op_address, worker):
        """A piece is some rows of one head."""
        op = i64(op_address)
        tokens, rows, size = i64(op[PRODUCT.state])[N_TOKENS], i64(op[PRODUCT.rows]), op[PRODUCT.size]
        stride, scratch = op[PRODUCT.out_stride], op[PRODUCT.scratch] + worker * SCRATCH_BYTES
        n, blocks, tile = rows[COLUMNS], (rows[COLUMNS] + 31) // 32, scratch + TILE_AT
        pieces, tiles = (size + PIECE - 1) // PIECE, (tokens + TOKENS - 1) // TOKENS
        while True:
            piece = take(op)
            if piece >= pieces * op[PRODUCT.n_heads]:
                return
            head, first = piece // pieces, piece % pieces * PIECE
            last = min(first + PIECE, size)
            packed = op[PRODUCT.packed] + head * tiles * blocks * block_bytes
            for begin in range(0, n, most):
                end, panel = min(begin + most, n), scratch + PANELS_AT
                for row in range(first, last, ROWS):
                    fill(
                        rows,
                        head * size + row,
                        begin,
                        end,
                        scratch,
                        panel + (row - first) // ROWS * PANEL_BYTES,
                        worker,
                    )
                for t in range(0, tokens, TOKENS):
                    count, x = min(TOKENS, tokens - t), packed + t // TOKENS * blocks * block_bytes
                    out = f32(op[PRODUCT.out] + (t * stride + head * op[PRODUCT.out_step]) * 4)
                    for row in range(first, last, ROWS):
                        here, wide = panel + (row - first) // ROWS * PANEL_BYTES, min(ROWS, last - row)
                        begin_tile(f32(tile), out, stride, count, row, wide, 0, begin)
                        step(x, begin, end, count, here, tile)
                        end_tile(f32(tile), out, stride, count, row, wide)

    return kernel(OPERATION, f"heads_{kind_name(kind)}")(product)


_PRODUCTS: dict[Kind, Kernel] = {kind: _make(kind) for kind in KINDS}
