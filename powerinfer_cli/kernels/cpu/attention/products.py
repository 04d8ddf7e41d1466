"""Products of attention with keys and with values: of a tile of rows, in registers.

What depends on the type of keys, or of values, is a kernel of its own, called by address: one for each type rather than
one for each pair.
"""

from collections.abc import Callable
from typing import Any

from powerinfer_cli.kernels.cache import PAGE, CacheType
from powerinfer_cli.kernels.jit import RUNG, Kernel, Rung, family, helper, kernel, types
from powerinfer_cli.kernels.simd import (
    add_scaled,
    calling,
    columns_f16,
    columns_f32,
    columns_i8,
    f32,
    i8,
    load_tile,
    outer,
    scaled_by_pairs,
    store_tile,
    u16,
    zero_tile,
)

__all__ = ["MOST_ROWS", "SPAN", "TILES", "attention_kernels", "multiply_part"]

SPAN = PAGE  # positions at a time
# Rows of a tile -> columns in registers: blocks of 16 positions for scores, of 16 dimensions for sums of values.
# AVX-512 has 32 registers; below, a vector of 16 takes two of 16, or more.
TILES = {1: (4, 4), 4: (2, 4), 8: (1, 2)} if RUNG is Rung.VNNI else {1: (4, 4), 4: (1, 1)}
MOST_ROWS = max(TILES)
# (queries or softmax, rows of the tile, dimensions, keys or values, their scales, position, how many positions, out)
_PART = types.void(*[types.int64] * 8)
multiply_part = calling(types.void, *[types.int64] * 8)
_POINTER = {CacheType.F32: f32, CacheType.F16: u16, CacheType.Q8_0: i8}
_COLUMNS = {CacheType.F32: columns_f32, CacheType.F16: columns_f16, CacheType.Q8_0: columns_i8}


def attention_kernels(type_k: CacheType, type_v: CacheType) -> tuple[Kernel, Kernel]:
    """What the operation calls: one for scores, one for sums of values."""
    return _scores(type_k), _sums(type_v)


def _scores_of(rows: int, kind: CacheType) -> Any:
    columns = TILES[rows][0]
    pointer, load, grouped = _POINTER[kind], _COLUMNS[kind], kind is CacheType.Q8_0
    n, positions = rows * columns, 16 * columns

    @helper
    def scores(q, head_dim, keys_address, scales, position, count, out):
        """out[r, i] = q[:, r] . key of `position` + i, i below count, rounded up; q [head_dim, rows]."""
        keys, step, groups = pointer(keys_address), head_dim * 16, head_dim // 32
        for i in range(0, count, positions):
            block = (position + i) // 16
            at = block * step
            tile = zero_tile(n)
            if grouped:
                for g in range(groups):
                    part = zero_tile(n)
                    for d in range(g * 32, g * 32 + 32):
                        part = outer(part, load(columns, keys, at + d * 16, step), q, d * rows, 1)
                    factors = columns_f16(columns, u16(scales), (block * groups + g) * 16, groups * 16)
                    tile = add_scaled(tile, part, factors)
            else:
                for d in range(head_dim):
                    tile = outer(tile, load(columns, keys, at + d * 16, step), q, d * rows, 1)
            store_tile(tile, columns, out, i, SPAN)

    return scores


def _sums_of(rows: int, kind: CacheType) -> Any:
    most = TILES[rows][1]
    add_most, add_one, width = _sums_of_columns(rows, most, kind), _sums_of_columns(rows, 1, kind), 16 * most

    @helper
    def sums(p, dims, values, scales, position, count, out):
        """out[r] += sum of p[r, i] * value of `position` + i, i below count; out [rows, dims]."""
        whole = dims // width * width
        for d in range(0, whole, width):
            add_most(p, dims, values, scales, position, count, d, out)
        for d in range(whole, dims, 16):
            add_one(p, dims, values, scales, position, count, d, out)

    return sums


def _sums_of_columns(rows: int, columns: int, kind: CacheType) -> Any:
    pointer, load, grouped = _POINTER[kind], _COLUMNS[kind], kind is CacheType.Q8_0

    @helper
    def sums(p, dims, values_address, scales, position, count, d, out):
        """The same for dimensions d to d + 16 * columns - 1."""
        values = pointer(values_address)
        tile = load_tile(rows, columns, out, d, dims)
        for i in range(count):
            row = position + i
            vectors = load(columns, values, row * dims + d, 16)
            if grouped:
                vectors = scaled_by_pairs(vectors, u16(scales), row * (dims // 32) + d // 32)
            tile = outer(tile, vectors, p, i, SPAN)
        store_tile(tile, columns, out, d, dims)

    return sums


def _part_kernel(name: str, make: Callable[[int, CacheType], Any], kind: CacheType) -> Kernel:
    """A kernel of all sizes of tiles."""
    of_rows = {rows: make(rows, kind) for rows in TILES}
    one, few, many = of_rows[1], of_rows[4], of_rows[MOST_ROWS]

    def part(numbers, rows, dims, data, scales, position, count, out):
        if rows == 1:
            one(f32(numbers), dims, data, scales, position, count, f32(out))
        elif rows == 4:
            few(f32(numbers), dims, data, scales, position, count, f32(out))
        else:
            many(f32(numbers), dims, data, scales, position, count, f32(out))

    return kernel(_PART, f"attention_{name}_{kind}")(part)


@family(CacheType)
def _scores(type_k: CacheType) -> Kernel:
    return _part_kernel("scores", _scores_of, type_k)


@family(CacheType)
def _sums(type_v: CacheType) -> Kernel:
    return _part_kernel("sums", _sums_of, type_v)
