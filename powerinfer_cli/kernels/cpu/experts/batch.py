"""Chosen experts for many tokens: each expert is a product with its own tokens, its weights unpacked once.

An expert's tokens are cut into tiles of their own. Gate and up: a piece is some rows of one expert. Down: a piece is
some rows of every expert's, which go one after the other over their tokens and add to these tokens' sums. So each
number of the result is added up by one thread, over the experts and an expert's columns in their order, whatever the
threads and the other tokens of the batch are.
"""

from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.activation import activate
from powerinfer_cli.kernels.cpu.experts.routing import N_TILES, N_USED, Routes
from powerinfer_cli.kernels.cpu.experts.token import ExpertRoom, ExpertRows, weigh
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
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors, aligned
from powerinfer_cli.kernels.formats.kinds import KINDS, Kind, kind_name, kind_of
from powerinfer_cli.kernels.formats.panels import BLOCK, ROWS, TOKENS
from powerinfer_cli.kernels.jit import Kernel, helper, kernel
from powerinfer_cli.kernels.jit.program import Operand, Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import f32, i32, i64
from powerinfer_cli.model.blocks import Linear

__all__ = ["ExpertWorkspace", "experts_batch", "make_expert_workspace"]

Floats: TypeAlias = npt.NDArray[np.float32]

PACK = operands("tiles counts order n_chosen x x_bytes n stride floats packed")
PRODUCT = operands(
    "state rows bias size used starts tile_starts counts order n_chosen weights packed out stride scratch add"
)


@dataclass(frozen=True)
class ExpertWorkspace:
    """What products of experts need besides their operands; operations of one program share it."""

    packed: npt.NDArray[np.uint8]  # tiles of experts' tokens, as `panels` wants them
    scratch: npt.NDArray[np.uint8]  # [threads, bytes]


def make_expert_workspace(tiles: int, columns: int, scratch: npt.NDArray[np.uint8]) -> ExpertWorkspace:
    """For so many tiles, and columns of the widest matrix. scratch: of `gemm`'s workspace."""
    return ExpertWorkspace(aligned(tiles * -(-columns // 32) * TOKENS * 32 * 4), scratch)


def experts_batch(
    state: npt.NDArray[np.int64],
    x: Vectors,
    neurons: ExpertRows,
    routes: Routes,
    room: ExpertRoom,
    out: Floats,
    workspace: ExpertWorkspace,
    *,
    add: bool,
    on_input: bool = False,
) -> list[Operation]:
    """As `experts_token`, for any number of tokens, in another order of each product's sum."""
    gate, up, down = neurons.gate, neurons.up, neurons.down
    products = [] if gate is None else [(gate, room.gate)]
    given: dict[bool, list[tuple[Linear[WeightRows, Floats], Vectors]]] = {False: [], True: []}
    for linear, to in (*products, (up, room.up)):
        given[linear.weight.format.is_float].append((linear, to))
    operations: list[Operation] = []
    for is_float, wanted in given.items():
        if wanted:
            operations.append(_packing(x, routes, workspace, is_float, by_token=True))
            operations += [_product(state, one, routes, workspace, to.floats) for one, to in wanted]
    gates, kind = None if gate is None else room.gate.floats, neurons.activation
    values = partial(activate, relu_on_up=neurons.relu_on_up, curve=neurons.curve)
    is_float = down.weight.format.is_float
    weights = np.ones_like(routes.weights) if on_input else routes.weights
    return [
        *operations,
        *(weigh(routes, room, neurons) if on_input else ()),
        values(routes.counts, gates, room.up.floats, room.value, kind),
        _packing(room.value, routes, workspace, is_float, by_token=False),
        _product(state, down, routes, workspace, out, weights=weights, add=add),
    ]


def _packing(x: Vectors, routes: Routes, workspace: ExpertWorkspace, is_float: bool, *, by_token: bool) -> Operation:
    """by_token: x has a vector a token; else one a pair, in the pairs' order."""
    given = x.floats if is_float else x.records
    return Operation.of(
        _pack,
        PACK,
        tiles=routes.tiles,
        counts=routes.counts,
        order=routes.order if by_token else None,
        n_chosen=routes.n_chosen,
        x=given,
        x_bytes=given.strides[0],
        n=x.n,
        stride=x.stride,
        floats=is_float,
        packed=workspace.packed,
    )


def _product(
    state: npt.NDArray[np.int64],
    linear: Linear[WeightRows, Floats],
    routes: Routes,
    workspace: ExpertWorkspace,
    out: Floats,
    *,
    weights: Floats | None = None,
    add: bool = False,
) -> Operation:
    """Without weights out has a row a pair; with them one a token, the sum of its pairs'."""
    rows = linear.weight
    lists: dict[str, Operand] = {"used": routes.used, "starts": routes.starts, "tile_starts": routes.tile_starts}
    lists |= {"counts": routes.counts, "order": routes.order, "n_chosen": routes.n_chosen}
    return Operation.of(
        _PRODUCTS[kind_of(rows.format)],
        PRODUCT,
        state=state,
        rows=rows,
        bias=linear.bias,
        size=rows.n_rows // routes.n_experts,
        **lists,
        weights=weights,
        packed=workspace.packed,
        out=out,
        stride=out.shape[1],
        scratch=workspace.scratch,
        add=add,
    )


@kernel(OPERATION, "experts_pack")
def _pack(op_address, worker):
    """Vectors to tiles. A piece is a tile."""
    op = i64(op_address)
    tiles, n_tiles, n_chosen = i32(op[PACK.tiles]), i64(op[PACK.counts])[N_TILES], op[PACK.n_chosen]
    x, x_bytes, stride, packed = op[PACK.x], op[PACK.x_bytes], op[PACK.stride], op[PACK.packed]
    blocks = (op[PACK.n] + 31) // 32
    while True:
        tile = take(op)
        if tile >= n_tiles:
            return
        begin, count = np.int64(tiles[2 * tile]), np.int64(tiles[2 * tile + 1])
        for t in range(TOKENS):
            place = begin + (t if t < count else 0)
            if op[PACK.order]:
                place = np.int64(i32(op[PACK.order])[place]) // n_chosen
            if op[PACK.floats]:
                pack_float_token(x + place * x_bytes, blocks * 4, packed + tile * blocks * TOKENS * 128, t)
            else:
                pack_token(x + place * x_bytes, stride, blocks, packed + tile * blocks * BLOCK, t, t < count)


@helper
def _scatter(tile, out, stride, tokens, first, count, pairs, begin, n_chosen, weights):
    """out[token of each pair] += its weight * what the tile has for it."""
    for k in range(tokens):
        pair = np.int64(pairs[begin + k])
        at, weight = pair // n_chosen * stride + first, weights[pair]
        for i in range(count):
            out[at + i] += weight * tile[k * ROWS + i]


def _make(kind: Kind) -> Kernel:
    fill, step, most, (_, block_bytes) = filling(kind), stepping(kind), at_once(kind), block_of(kind)

    @helper
    def add_rows(op, expert, first, last, worker):
        """Some of an expert's rows times the tokens of its tiles."""
        rows, size, bias, weights = i64(op[PRODUCT.rows]), op[PRODUCT.size], op[PRODUCT.bias], op[PRODUCT.weights]
        pairs, out, stride = i32(op[PRODUCT.order]), f32(op[PRODUCT.out]), op[PRODUCT.stride]
        n_chosen, scratch = op[PRODUCT.n_chosen], op[PRODUCT.scratch] + worker * SCRATCH_BYTES
        n, blocks, tile = rows[COLUMNS], (rows[COLUMNS] + 31) // 32, scratch + TILE_AT
        begins, ends = np.int64(i32(op[PRODUCT.starts])[expert]), np.int64(i32(op[PRODUCT.starts])[expert + 1])
        packed = op[PRODUCT.packed] + i32(op[PRODUCT.tile_starts])[expert] * blocks * block_bytes
        own = bias + expert * size * 4 if bias else np.int64(0)
        for begin in range(0, n, most):
            end, panel = min(begin + most, n), scratch + PANELS_AT
            for row in range(first, last, ROWS):
                at = panel + (row - first) // ROWS * PANEL_BYTES
                fill(rows, expert * size + row, begin, end, scratch, at, worker)
            for p in range(begins, ends, TOKENS):
                tokens, x = min(TOKENS, ends - p), packed + (p - begins) // TOKENS * blocks * block_bytes
                for row in range(first, last, ROWS):
                    at, count = panel + (row - first) // ROWS * PANEL_BYTES, min(ROWS, last - row)
                    if weights:
                        # Each part of the columns is added by itself; the bias belongs to the first.
                        begin_tile(f32(tile), out, stride, tokens, row, count, own if begin == 0 else 0, 0)
                        step(x, begin, end, tokens, at, tile)
                        _scatter(f32(tile), out, stride, tokens, row, count, pairs, p, n_chosen, f32(weights))
                    else:
                        place = f32(op[PRODUCT.out] + p * stride * 4)
                        begin_tile(f32(tile), place, stride, tokens, row, count, own, begin)
                        step(x, begin, end, tokens, at, tile)
                        end_tile(f32(tile), place, stride, tokens, row, count)

    def product(op_address, worker):
        op = i64(op_address)
        used, n_used, size = i32(op[PRODUCT.used]), i64(op[PRODUCT.counts])[N_USED], op[PRODUCT.size]
        pieces, out, stride = (size + PIECE - 1) // PIECE, f32(op[PRODUCT.out]), op[PRODUCT.stride]
        while True:
            piece = take(op)
            if op[PRODUCT.weights]:
                if piece >= pieces:
                    return
                first, last = piece * PIECE, min(piece * PIECE + PIECE, size)
                if not op[PRODUCT.add]:
                    for t in range(i64(op[PRODUCT.state])[N_TOKENS]):
                        for i in range(first, last):
                            out[t * stride + i] = np.float32(0.0)
                for u in range(n_used):
                    add_rows(op, np.int64(used[u]), first, last, worker)
            else:
                if piece >= pieces * n_used:
                    return
                first = piece % pieces * PIECE
                add_rows(op, np.int64(used[piece // pieces]), first, min(first + PIECE, size), worker)

    return kernel(OPERATION, f"experts_{kind_name(kind)}")(product)


_PRODUCTS: dict[Kind, Kernel] = {kind: _make(kind) for kind in KINDS}
