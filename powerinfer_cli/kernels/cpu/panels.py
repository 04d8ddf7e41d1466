"""What products of many tokens read: panels of unpacked rows, tiles of tokens, and how these are multiplied.

A thread's scratch holds rows as they are unpacked, then PANELS panels, then a tile of sums. `formats.panels` says how
numbers lie in them.
"""

from typing import Any

import numpy as np

from powerinfer_cli.kernels.cpu.rows import (
    COLUMNS,
    UNPACK_BUNDLE,
    UNPACK_ROW,
    row_address,
    row_in_memory,
    unpack_bundle,
    unpack_row,
)
from powerinfer_cli.kernels.cpu.rows import ROWS as N_ROWS
from powerinfer_cli.kernels.formats.kinds import FIXED, Kind, offset_of
from powerinfer_cli.kernels.formats.panels import (
    BIASES,
    BLOCK,
    FIXED_BLOCK,
    FIXED_LARGEST,
    FIXED_SCALES,
    GROUP,
    HALF_BIASES,
    ROWS,
    SCALES,
    TOKENS,
)
from powerinfer_cli.kernels.jit import RUNG, Rung, helper
from powerinfer_cli.kernels.simd import (
    absolute,
    f32,
    i8,
    i32,
    largest,
    load32,
    load_f32,
    maximum,
    multiply,
    multiply_fixed,
    multiply_floats,
    pair_columns,
    splat,
    store32,
    store_f32,
    store_i16,
    transposer,
    u16,
    zero,
)

__all__ = [
    "PANELS_AT",
    "PANEL_BYTES",
    "PIECE",
    "SCRATCH_BYTES",
    "TILE_AT",
    "at_once",
    "begin_tile",
    "block_of",
    "end_tile",
    "filling",
    "pack_fixed_token",
    "pack_float_token",
    "pack_token",
    "stepping",
]

PANELS = 2  # of a piece
PIECE = PANELS * ROWS
COLUMNS_AT_ONCE, FLOATS_AT_ONCE = 2048, 512
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


def at_once(kind: Kind) -> int:
    """Columns of a panel."""
    return FLOATS_AT_ONCE if kind == FIXED or kind[0] == 0 else COLUMNS_AT_ONCE


def block_of(kind: Kind) -> tuple[int, int]:
    """Packed tokens: so many columns have so many bytes."""
    if kind == FIXED:
        return GROUP, FIXED_BLOCK
    return 32, BLOCK if kind[0] else 32 * TOKENS * 4


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


@helper
def _fix(x, q):
    """GROUP float32 as int16, which may lie where they begin. Their scale."""
    peaks = absolute(load_f32(x, 0))
    for i in range(16, GROUP, 16):
        peaks = maximum(peaks, absolute(load_f32(x, i)))
    peak = largest(peaks)
    inverse = np.float32(FIXED_LARGEST) / peak if peak > np.float32(1e-30) else np.float32(0.0)
    for i in range(0, GROUP, 16):
        store_i16(q, i, load_f32(x, i) * splat(inverse))
    return peak / np.float32(FIXED_LARGEST)


@helper
def pack_fixed_token(x, groups, to, t):
    """float32 in groups as a tile's t-th token, in fixed point."""
    for g in range(groups):
        f32(to + FIXED_SCALES)[t] = _fix(f32(x + g * GROUP * 4), u16(to + t * GROUP * 2))
        to += FIXED_BLOCK


@helper
def _fill_floats(rows, first, begin, end, scratch, panel, worker):
    """What `filling` says, for float formats; weights behind the last column are 0."""
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
def _fill_fixed(rows, first, begin, end, scratch, panel, worker):
    """What `filling` says, in fixed point; weights behind the last column are 0."""
    scales = panel + _PANEL_S - PANELS_AT
    for half in range(2):
        row = first + half * 16
        if row >= rows[N_ROWS]:
            return
        for r in range(min(16, rows[N_ROWS] - row)):
            staged = scratch + r * _Q_STRIDE
            unpack_row(rows[UNPACK_ROW], row_address(rows, row + r, worker), rows[COLUMNS], begin, end, staged, 0, 0)
            for c in range(end - begin, (end - begin + GROUP - 1) // GROUP * GROUP):
                f32(staged)[c] = 0.0
            for c in range(0, end - begin, GROUP):
                scale = _fix(f32(staged + c * 4), u16(staged + c * 2))
                f32(scratch + _STAGED_S + r * _S_STRIDE)[c // GROUP] = scale
        for c in range(0, (end - begin + GROUP - 1) // GROUP * GROUP, 32):
            _transpose(scratch + c * 2, _Q_STRIDE, panel + c * ROWS * 2 + half * 64, ROWS * 4)
        _transpose(scratch + _STAGED_S, _S_STRIDE, scales + half * 64, ROWS * 4)


def filling(kind: Kind) -> Any:
    """fill(rows, first, begin, end, scratch, panel, worker): unpack columns begin..end of the rows from `first` on.

    Lanes of rows that are not there hold anything.
    """
    if kind == FIXED:
        return _fill_fixed
    if kind[0] == 0:
        return _fill_floats
    group, has_min, bits = kind
    added = offset_of(bits, has_min)
    transpose_quants, paired = transposer(16, added), RUNG is Rung.I8MM

    @helper
    def fill(rows, first, begin, end, scratch, panel, worker):
        scales, mins = panel + _PANEL_S - PANELS_AT, panel + _PANEL_M - PANELS_AT
        for half in range(2):
            row = first + half * 16
            if row >= rows[N_ROWS]:
                break
            if rows[UNPACK_BUNDLE]:
                to, s, m = panel + half * 64, scales + half * 64, mins + half * 64
                unpack_bundle(rows[UNPACK_BUNDLE], row_in_memory(rows, row), begin, end, added, to, s, m)
                if paired:
                    pair_columns(to, ROWS * 4, (end - begin) // 8)
                continue
            for r in range(min(16, rows[N_ROWS] - row)):
                staged = scratch + r * _Q_STRIDE
                s, m = scratch + _STAGED_S + r * _S_STRIDE, scratch + _STAGED_M + r * _S_STRIDE
                address = row_address(rows, row + r, worker)
                unpack_row(rows[UNPACK_ROW], address, rows[COLUMNS], begin, end, staged, s, m)
            for c in range(0, end - begin, 64):
                transpose_quants(scratch + c, _Q_STRIDE, panel + c * ROWS + half * 64, ROWS * 4)
            if paired:
                pair_columns(panel + half * 64, ROWS * 4, (end - begin) // 8)
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
    if kind == FIXED:
        return _fixed_step
    if kind[0] == 0:
        return _float_step
    many, few = (multiply(n, *kind) for n in (TOKENS, _FEW))

    @helper
    def step(x, begin, end, tokens, panel, tile):
        block, scales, mins = x + begin // 32 * BLOCK, panel + _PANEL_S - PANELS_AT, panel + _PANEL_M - PANELS_AT
        if tokens > _FEW:
            many(block, panel, scales, mins, (end - begin) // 32, tile)
        else:
            few(block, panel, scales, mins, (end - begin) // 32, tile)

    return step


_many_floats, _few_floats = multiply_floats(TOKENS), multiply_floats(_FEW)
_many_fixed, _few_fixed = multiply_fixed(TOKENS), multiply_fixed(_FEW)


@helper
def _float_step(x, begin, end, tokens, panel, tile):
    block = x + begin * TOKENS * 4
    if tokens > _FEW:
        _many_floats(block, panel, (end - begin + 7) // 8, tile)
    else:
        _few_floats(block, panel, (end - begin + 7) // 8, tile)


@helper
def _fixed_step(x, begin, end, tokens, panel, tile):
    block, scales = x + begin // GROUP * FIXED_BLOCK, panel + _PANEL_S - PANELS_AT
    if tokens > _FEW:
        _many_fixed(block, panel, scales, (end - begin + GROUP - 1) // GROUP, tile)
    else:
        _few_fixed(block, panel, scales, (end - begin + GROUP - 1) // GROUP, tile)
