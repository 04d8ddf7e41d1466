"""Rows and tokens as `sparse_dots` wants them, and the operation that multiplies neurons' rows with their tokens."""

from typing import Any

import numpy as np

from powerinfer_cli.kernels.jit import Kernel, helper, kernel
from powerinfer_cli.kernels.panels import transposer
from powerinfer_cli.kernels.rows import COLUMNS, ROWS, UNPACK_ROW, row_address, unpack_row
from powerinfer_cli.kernels.simd import (
    doubled,
    f32,
    fetch_add,
    i32,
    i64,
    load_f32,
    splat,
    store_f32,
    total,
)
from powerinfer_cli.kernels.sparse_dots import AT_ONCE, chunk_bytes, dot_floats, dot_records
from powerinfer_cli.kernels.team import FIRST, OPERATION, take
from powerinfer_cli.kernels.vectors import N_TOKENS

__all__ = ["FIRST_STEP", "MULTIPLY", "MULTIPLY_RELU", "PACK", "PRODUCTS", "row_scratch_bytes"]

_PIECE = 16  # neurons that a thread takes at a time

# What is done with a product v: drop the token where relu(v) is 0, else keep relu(v); value *= v; value *= relu(v)
FIRST_STEP, MULTIPLY, MULTIPLY_RELU = 0, 1, 2


def row_scratch_bytes(n: int) -> int:
    """Of one thread: an unpacked row (quants, scales, minima, or floats), then the sums, then the row in chunks."""
    return _unpacked_bytes(n) + 64 * AT_ONCE + (n // 512 + 1) * 2 * chunk_bytes(16)


def _unpacked_bytes(n: int) -> int:
    return (n // 512 + 1) * 2048 + 64


_unpacked = helper(_unpacked_bytes)


def _packing(group: int) -> Kernel:
    """Records to chunks; a piece is a token."""
    size = chunk_bytes(group)
    transpose = transposer(group // 4, quants=False)

    def pack(op_address, worker):
        op = i64(op_address)
        state, records, stride = i64(op[FIRST]), op[FIRST + 1], op[FIRST + 2]
        n, p, packed = op[FIRST + 3], op[FIRST + 4], op[FIRST + 5]
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


def _loading(group: int, has_min: bool) -> Any:
    """load(rows, i, scratch, worker): row i in chunks; where it is."""
    size = chunk_bytes(group) if group else 0
    transpose = transposer(group // 4, quants=True)

    @helper
    def load(rows, i, scratch, worker):
        n = rows[COLUMNS]
        row = row_address(rows, i, worker)
        if group == 0:
            unpack_row(rows[UNPACK_ROW], row, n, 0, n, scratch, 0, 0)
            for c in range(n, (n + 31) // 32 * 32):
                f32(scratch)[c] = 0.0
            return scratch
        chunks = (n + 16 * group - 1) // (16 * group)
        s = scratch + chunks * 16 * group + 64
        m = s + chunks * 64
        to = scratch + _unpacked(n) + 64 * AT_ONCE
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
        return to

    return load


def _products(group: int, has_min: bool) -> Kernel:
    """Each neuron's row times its tokens, for formats whose scales are for `group` columns; 0: float formats."""
    load = _loading(group, has_min)
    dot = dot_records(group, has_min) if group else dot_floats
    columns = 16 * group or 32  # of a step of `dot`

    def products(op_address, worker):
        op = i64(op_address)
        rows, x, x_stride, bias = i64(op[FIRST]), op[FIRST + 1], op[FIRST + 2], op[FIRST + 3]
        counts, capacity, mode, fired = i32(op[FIRST + 4]), op[FIRST + 7], op[FIRST + 8], i64(op[FIRST + 9])
        scratch = op[FIRST + 10] + worker * op[FIRST + 11]
        steps = (rows[COLUMNS] + columns - 1) // columns
        sums_at = scratch + _unpacked(rows[COLUMNS])
        sums, n_rows = f32(sums_at), rows[ROWS]
        while True:
            begin = take(op) * _PIECE
            if begin >= n_rows:
                return
            left = 0
            for neuron in range(begin, min(begin + _PIECE, n_rows)):
                count = np.int64(counts[neuron])
                if count == 0:
                    continue
                tokens = i32(op[FIRST + 5] + neuron * capacity * 4)
                values = f32(op[FIRST + 6] + neuron * capacity * 4)
                shift = f32(bias)[neuron] if bias else np.float32(0.0)
                row = load(rows, neuron, scratch, worker)
                kept = 0
                for i in range(0, count, AT_ONCE):
                    x0, x1 = x + tokens[i] * x_stride, x + tokens[min(i + 1, count - 1)] * x_stride
                    x2 = x + tokens[min(i + 2, count - 1)] * x_stride
                    x3 = x + tokens[min(i + 3, count - 1)] * x_stride
                    dot(row, steps, x0, x1, x2, x3, sums_at)
                    for k in range(AT_ONCE):
                        if i + k >= count:
                            break
                        value = total(load_f32(sums, 16 * k)) + shift
                        if mode == FIRST_STEP:
                            tokens[kept], values[kept] = tokens[i + k], value
                            kept += value > np.float32(0.0)
                        else:
                            if mode == MULTIPLY_RELU:
                                value = max(value, np.float32(0.0))
                            values[i + k] *= value
                if mode == FIRST_STEP:
                    counts[neuron] = kept
                    left += kept
            if mode == FIRST_STEP:
                fetch_add(fired, 1, left)

    return kernel(OPERATION, f"sparse_products_{group}{'_min' if has_min else ''}")(products)


PRODUCTS = {(g, m): _products(g, m) for g in (16, 32) for m in (False, True)} | {(0, False): _products(0, False)}
