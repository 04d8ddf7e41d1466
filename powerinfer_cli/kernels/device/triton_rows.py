"""Weight rows as Triton kernels read them: tiles of groups, dequantised in registers, and dot products with them.

A tile of quantised rows is [rows, groups, half a group]: two of them, for the first and the second half of each group,
as nibbles lie that way. So 16 bytes are one load of a thread, neighbours load neighbouring groups, and a group's
scale is applied once to the sum of its products.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from powerinfer_cli.kernels.device.planar import PlanarRows

__all__ = ["Rows", "Tile", "dot_rows", "dot_tokens", "group_scale", "group_tile", "launch", "rows_of", "tile_of"]


class Rows(NamedTuple):
    """PlanarRows for a kernel: pointers, None where there is no such plane, and what is known at compile time."""

    quants: Any
    scales: Any
    mins: Any
    super_scales: Any
    super_mins: Any
    codebook: Any
    n_cols: Any
    group: Any  # 0: floats
    packed: Any
    offset: Any


class Tile(NamedTuple):
    """How a program cuts rows: groups (floats: columns) at a time, a power of two; and its warps."""

    width: int
    warps: int


def rows_of(rows: PlanarRows) -> Rows:
    layout = rows.layout
    planes = (rows.quants, rows.scales, rows.mins, rows.super_scales, rows.super_mins, rows.codebook)
    known = (rows.n_cols, layout.group, layout.packed, layout.offset)
    return Rows(*planes, *map(tl.constexpr, known))


def tile_of(rows: PlanarRows, max_warps: int = 4) -> Tile:
    """So many warps that every thread loads 16 bytes of a row at a time, and so many groups that they do it once."""
    layout = rows.layout
    unit = 1 if layout.is_float else layout.group  # weights in one of the tile's steps
    bytes_of_unit = layout.quants.itemsize if layout.is_float else unit // 2 if layout.packed else unit
    units = triton.next_power_of_2(rows.n_cols // unit)
    warps = min(max_warps, max(1, units * bytes_of_unit // (16 * 32)))
    return Tile(max(1, min(units, warps * 16 * 32 // bytes_of_unit)), warps)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = 4) -> None:
    """Run a kernel on the device of its first tensor, unless its grid is empty."""
    if 0 in grid:
        return
    tensor = next(a for a in args if isinstance(a, Tensor))
    with torch.cuda.device_of(tensor):
        kernel[grid](*args, num_warps=warps, enable_fp_fusion=True)


@triton.jit
def _number(bits, offset: tl.constexpr):
    """A small unsigned integer less an offset as float32. As 2**23's fraction: cheaper than a conversion."""
    return (bits.to(tl.uint32) | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + offset)


@triton.jit
def _level(quant, w):
    return _number(quant, w.offset) if w.codebook is None else tl.load(w.codebook + quant)


@triton.jit
def group_tile(w, row, g, there):
    """Levels of the first and of the second half of each group. row int64 [R], g [G], there [R, G] -> [R, G, half]"""
    half: tl.constexpr = w.group // 2
    row, g, there, i = row[:, None, None], g[None, :, None], there[:, :, None], tl.arange(0, half)[None, None, :]
    if w.packed:
        quants = tl.load(w.quants + row * (w.n_cols // 2) + g * half + i, mask=there, other=0)
        low, high = _level(quants & 15, w), _level(quants >> 4, w)
    else:
        at = w.quants + row * w.n_cols + g * w.group + i
        first = tl.load(at, mask=there, other=0).to(tl.uint8, bitcast=True)
        second = tl.load(at + half, mask=there, other=0).to(tl.uint8, bitcast=True)
        low, high = _number(first ^ 128, 128), _number(second ^ 128, 128)
    return low, high


@triton.jit
def group_scale(small, large, w, row, g, there):
    """Scales, or minima, of groups: float32 [R, G]."""
    row, g = row[:, None], g[None, :]
    found = tl.load(small + row * (w.n_cols // w.group) + g, mask=there, other=0).to(tl.float32)
    if large is not None:
        found *= tl.load(large + row * (w.n_cols // 256) + g * w.group // 256, mask=there, other=0).to(tl.float32)
    return found


@triton.jit
def _zeros(T: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr):
    """A sum for each token."""
    totals = ()
    for _ in tl.static_range(T):
        totals = totals + (tl.zeros([R, WIDTH], tl.float32),)  # type: ignore[assignment] # noqa: RUF005  # no stars here
    return totals


@triton.jit
def _dot_floats(w, row, valid, x, T: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr):
    totals = _zeros(T, R, WIDTH)
    for first in range(0, w.n_cols, WIDTH):
        column = first + tl.arange(0, WIDTH)
        inside = column < w.n_cols
        there = valid[:, None] & inside[None, :]
        weights = tl.load(w.quants + row[:, None] * w.n_cols + column[None, :], mask=there, other=0).to(tl.float32)
        sums = ()
        for t in tl.static_range(T):
            own = totals[t] + weights * tl.load(x + t * w.n_cols + column, mask=inside, other=0)[None, :]
            sums = sums + (own,)  # type: ignore[assignment] # noqa: RUF005  # as above
        totals = sums
    return totals


@triton.jit
def _dot_groups(w, row, valid, x, T: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr):
    half: tl.constexpr = w.group // 2
    n_groups: tl.constexpr = w.n_cols // w.group
    totals = _zeros(T, R, WIDTH)
    for first in range(0, n_groups, WIDTH):
        g = first + tl.arange(0, WIDTH)
        inside = g < n_groups
        there = valid[:, None] & inside[None, :]
        low, high = group_tile(w, row, g, there)
        scale = group_scale(w.scales, w.super_scales, w, row, g, there)
        if w.mins is not None:
            least = group_scale(w.mins, w.super_mins, w, row, g, there)
        sums = ()
        for t in tl.static_range(T):
            at = x + t * w.n_cols + g[None, :, None] * w.group + tl.arange(0, half)[None, None, :]
            x_low = tl.load(at, mask=inside[None, :, None], other=0)
            x_high = tl.load(at + half, mask=inside[None, :, None], other=0)
            own = totals[t] + tl.sum(low * x_low + high * x_high, axis=2) * scale
            if w.mins is not None:
                own += tl.sum(x_low + x_high, axis=2) * least
            sums = sums + (own,)  # type: ignore[assignment] # noqa: RUF005  # as above
        totals = sums
    return totals


@triton.jit
def dot_tokens(w, row, valid, x, T: tl.constexpr, R: tl.constexpr, WIDTH: tl.constexpr):
    """Rows . each of T tokens, x [T, n_cols], row int64 [R]; what is read of a row is read once. Where not valid [R],
    nothing is read and the result is 0. -> T sums [R, WIDTH], to be added up
    """
    return _dot_floats(w, row, valid, x, T, R, WIDTH) if w.group == 0 else _dot_groups(w, row, valid, x, T, R, WIDTH)


@triton.jit
def dot_rows(w, row, valid, x, R: tl.constexpr, WIDTH: tl.constexpr):
    """Rows . x [n_cols]: row int64 [R]; where not valid [R], nothing is read and the result is 0. -> [R]"""
    return tl.sum(dot_tokens(w, row, valid, x, 1, R, WIDTH)[0], axis=1)
