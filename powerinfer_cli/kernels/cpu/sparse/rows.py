"""Rows and tokens as `sparse_dots` wants them, and the operation that multiplies neurons' rows with their tokens."""

from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.activation_codes import ACTIVATION_CODES, EXACT
from powerinfer_cli.kernels.cpu.functions import activated
from powerinfer_cli.kernels.cpu.rows import (
    BASE,
    COLUMNS,
    ROW_BYTES,
    ROWS,
    STRIDE,
    UNPACK_ROW,
    WeightRows,
    row_address,
    unpack_row,
)
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS
from powerinfer_cli.kernels.formats.chunks import AT_ONCE, chunk_bytes
from powerinfer_cli.kernels.formats.kinds import KINDS, Kind, kind_name, kind_of, offset_of
from powerinfer_cli.kernels.jit import Kernel, helper, kernel
from powerinfer_cli.kernels.jit.program import Operand, Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import (
    dot_floats,
    dot_records,
    doubled,
    f32,
    fetch_add,
    i32,
    i64,
    load_f32,
    prefetch,
    splat,
    store_f32,
    total,
    transposer,
)
from powerinfer_cli.model import Activation

__all__ = [
    "MULTIPLY",
    "MULTIPLY_RELU",
    "PACK",
    "multiply_rows",
    "row_scratch_bytes",
]

MOST_ROWS = 32  # that a thread takes at a time
_ROW_BYTES, _TOKEN_BYTES = 96 << 10, 320 << 10  # of unpacked rows, and of tokens, that a core's cache holds together

# What is done with a product v. An activation's code: keep act(v), but under ReLU drop the token where that is 0.
# Others: value *= v; value *= relu(v).
MULTIPLY, MULTIPLY_RELU = len(ACTIVATION_CODES), len(ACTIVATION_CODES) + 1
_RELU, _FATRELU = ACTIVATION_CODES[Activation.RELU], ACTIVATION_CODES[Activation.FATRELU]

PACKED = operands("state records record_bytes n stride packed")
PRODUCTS = operands(
    "state rows x x_stride bias counts tokens values capacity mode fired scratch scratch_bytes piece block curve"
)


def row_scratch_bytes(n: int) -> int:
    """Of one thread: an unpacked row (quants, scales, minima), the sums, places and kept of the rows, the rows."""
    largest = (n // 512 + 1) * 2048
    return _unpacked_bytes(n) + 64 * AT_ONCE + 16 * MOST_ROWS + max(_ROW_BYTES, largest) + 256


def _unpacked_bytes(n: int) -> int:
    return (n // 512 + 1) * 2048 + 64


def _packing(group: int) -> Kernel:
    """Records to chunks; a piece is a token."""
    size = chunk_bytes(group)
    transpose = transposer(group // 4)

    def pack(op_address, worker):
        op = i64(op_address)
        state, records, stride = i64(op[PACKED.state]), op[PACKED.records], op[PACKED.record_bytes]
        n, p, packed = op[PACKED.n], op[PACKED.stride], op[PACKED.packed]
        chunks = (n + 16 * group - 1) // (16 * group)
        while True:
            t = take(op)
            if t >= state[N_TOKENS]:
                return
            record, to = records + t * stride, packed + t * chunks * size
            d = f32(record + p)
            sums = i32(record + p + p // 8) if group == 32 else i32(record + p + p // 4)
            for c in range(chunks):
                transpose(record + c * 16 * group, group, to + c * size, 64)
                rest = to + c * size + 16 * group
                store_f32(f32(rest), 0, load_f32(d, c * 16) if group == 32 else doubled(d, c * 8))
                for g in range(16):
                    i32(rest + 64)[g] = sums[c * 16 + g] * -128

    return kernel(OPERATION, f"sparse_pack_{group}")(pack)


PACK = {group: _packing(group) for group in (16, 32)}


def _loading(kind: Kind) -> Any:
    """load(rows, i, scratch, to, worker): row i in chunks (float formats: float32) to an address."""
    group, has_min, bits = kind
    size = chunk_bytes(group) if group else 0
    transpose = transposer(group // 4, offset_of(bits, has_min))

    @helper
    def load(rows, i, scratch, to, worker):
        n = rows[COLUMNS]
        row = row_address(rows, i, worker)
        for at in range(0, rows[ROW_BYTES], 64):
            prefetch(rows[BASE] + (i + 1) * rows[STRIDE] + at)
        if group == 0:
            unpack_row(rows[UNPACK_ROW], row, n, 0, n, to, 0, 0)
            for c in range(n, (n + 31) // 32 * 32):
                f32(to)[c] = 0.0
            return
        chunks = (n + 16 * group - 1) // (16 * group)
        s = scratch + chunks * 16 * group + 64
        m = s + chunks * 64
        unpack_row(rows[UNPACK_ROW], row, n, 0, n, scratch, s, m)
        for g in range(n // group, chunks * 16):
            f32(s)[g] = 0.0
            f32(m)[g] = 0.0
        for c in range(chunks):
            transpose(scratch + c * 16 * group, group, to + c * size, 64)
            rest = f32(to + c * size + 16 * group)
            store_f32(rest, 0, load_f32(f32(s), c * 16))
            if has_min:
                store_f32(rest, 16, load_f32(f32(m), c * 16) * splat(np.float32(-1 / 128)))

    return load


def _meeting(kind: Kind) -> Any:
    """meet(...): a row meets the tokens of its neuron's list, from the i-th to those before `until`."""
    dot = dot_records(*kind) if kind[0] else dot_floats

    @helper
    def meet(row, steps, x, x_stride, tokens, values, i, count, until, kept, shift, mode, least, sums_at):
        """Where in the list to go on, and how many tokens are kept: where zeros are exact, those above `least`."""
        sums = f32(sums_at)
        while i < count and tokens[i] < until:
            x0, x1 = x + tokens[i] * x_stride, x + tokens[min(i + 1, count - 1)] * x_stride
            x2 = x + tokens[min(i + 2, count - 1)] * x_stride
            x3 = x + tokens[min(i + 3, count - 1)] * x_stride
            dot(row, steps, x0, x1, x2, x3, sums_at)
            for k in range(min(AT_ONCE, count - i)):
                value = total(load_f32(sums, 16 * k)) + shift
                if mode < EXACT:
                    tokens[kept], values[kept] = tokens[i + k], value
                    kept += value > least
                elif mode < MULTIPLY:
                    values[i + k] = value
                else:
                    if mode == MULTIPLY_RELU:
                        value = max(value, np.float32(0.0))
                    values[i + k] *= value
            i += AT_ONCE
        return i, kept

    return meet


@helper
def activate_all(values, count, mode, curve):
    """The values of a list, in place; there is room behind them."""
    for k in range(0, count, 16):
        store_f32(values, k, activated(load_f32(values, k), mode, curve))


def _products(kind: Kind) -> Kernel:
    """Each neuron's row times its tokens.

    A thread unpacks `piece` rows and then goes over the batch, `block` tokens at a time: both stay in the core's cache.
    """
    load, meet, group = _loading(kind), _meeting(kind), kind[0]
    columns = 16 * group or 32  # of a step of the dot product
    step_bytes = chunk_bytes(group) if group else 128

    def products(op_address, worker):
        op = i64(op_address)
        state, rows, x, x_stride, bias = (
            i64(op[PRODUCTS.state]),
            i64(op[PRODUCTS.rows]),
            op[PRODUCTS.x],
            op[PRODUCTS.x_stride],
            op[PRODUCTS.bias],
        )
        counts, capacity, mode, fired = (
            i32(op[PRODUCTS.counts]),
            op[PRODUCTS.capacity],
            op[PRODUCTS.mode],
            i64(op[PRODUCTS.fired]),
        )
        scratch, piece, block = (
            op[PRODUCTS.scratch] + worker * op[PRODUCTS.scratch_bytes],
            op[PRODUCTS.piece],
            op[PRODUCTS.block],
        )
        n, n_rows, n_tokens, curve = rows[COLUMNS], rows[ROWS], state[N_TOKENS], op[PRODUCTS.curve]
        least = f32(curve)[0] if mode == _FATRELU else np.float32(0.0)
        steps = (n + columns - 1) // columns
        sums_at = scratch + _unpacked_bytes(n)
        places, kept = i64(sums_at + 64 * AT_ONCE), i64(sums_at + 64 * AT_ONCE + 8 * MOST_ROWS)
        unpacked = sums_at + 64 * AT_ONCE + 16 * MOST_ROWS
        while True:
            begin = take(op) * piece
            if begin >= n_rows:
                return
            end = min(begin + piece, n_rows)
            for i in range(begin, end):
                places[i - begin], kept[i - begin] = 0, 0
                if counts[i]:
                    load(rows, i, scratch, unpacked + (i - begin) * steps * step_bytes, worker)
            for until in range(block, n_tokens + block, block):
                for i in range(begin, end):
                    k = i - begin
                    places[k], kept[k] = meet(
                        unpacked + k * steps * step_bytes,
                        steps,
                        x,
                        x_stride,
                        i32(op[PRODUCTS.tokens] + i * capacity * 4),
                        f32(op[PRODUCTS.values] + i * capacity * 4),
                        places[k],
                        np.int64(counts[i]),
                        until,
                        kept[k],
                        f32(bias)[i] if bias else np.float32(0.0),
                        mode,
                        least,
                        sums_at,
                    )
            if mode >= MULTIPLY:
                continue
            left = 0
            for i in range(begin, end):
                if mode < EXACT:
                    counts[i] = kept[i - begin]
                if mode != _RELU:
                    activate_all(f32(op[PRODUCTS.values] + i * capacity * 4), counts[i], mode, curve)
                left += counts[i]
            fetch_add(fired, 1, left)

    return kernel(OPERATION, f"sparse_products_{kind_name(kind)}")(products)


_PRODUCTS = {kind: _products(kind) for kind in KINDS}


def multiply_rows(
    state: npt.NDArray[np.int64],
    rows: WeightRows,
    x: npt.NDArray[np.uint8],
    x_stride: int,
    bias: npt.NDArray[np.float32] | None,
    lists: tuple[Operand, ...],
    step: int,
    counts: npt.NDArray[np.int64],
    scratch: npt.NDArray[np.uint8],
    curve: npt.NDArray[np.float32] | None = None,
) -> Operation:
    """Each neuron's row times its tokens. x: packed tokens, `x_stride` bytes each, or float32 for float formats.

    lists: the lists' lengths, tokens, values, and the length that there is room for.
    """
    f = rows.format
    chunk = 16 * f.group or 32
    row_bytes = -(-rows.n_cols // chunk) * (chunk_bytes(f.group) if f.group else 128)
    piece, block = min(MOST_ROWS, max(1, _ROW_BYTES // row_bytes)), max(AT_ONCE, _TOKEN_BYTES // x_stride)
    found, tokens, values, capacity = lists
    return Operation.of(
        _PRODUCTS[kind_of(f)],
        PRODUCTS,
        state=state,
        rows=rows,
        x=x,
        x_stride=x_stride,
        bias=bias,
        counts=found,
        tokens=tokens,
        values=values,
        capacity=capacity,
        mode=step,
        fired=counts,
        scratch=scratch,
        scratch_bytes=scratch.shape[1],
        piece=piece,
        block=block,
        curve=curve,
    )
