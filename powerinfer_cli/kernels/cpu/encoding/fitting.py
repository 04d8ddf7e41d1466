"""Scales of quantised groups by weighted least squares: the compiled twin of `gguf_io.encoders.PlainFit`, and encoding
by it on all cores.

A lane is a group: 16 of them are fitted at a time, whatever the CPU's registers and the number of threads. Instruction
sets differ in last bits, and so in a block here and there. Kernels are called without the interpreter's lock, by as
many threads as there are pieces.
"""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import GGMLType, encoders
from powerinfer_cli.gguf_io.encoders import REFITS, SAME, Choice, Grid, Nearest, Scales
from powerinfer_cli.kernels.cpu.encoding.codebooks import nearest_entries
from powerinfer_cli.kernels.jit import helper, kernel, types
from powerinfer_cli.kernels.simd import (
    absolute,
    f32,
    fma,
    i8,
    load_f32,
    maximum,
    minimum,
    nearest,
    reciprocal,
    splat,
    stack_f32,
    store_f32,
    store_i8,
    where_greater,
    zero,
)
from powerinfer_cli.system.cores import usable_cores

__all__ = ["CompiledFit", "choose_scales", "encode", "place_numbers", "search_scales"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def encode(values: Floats, kind: GGMLType, importance: Floats | None = None, *, threads: int | None = None) -> Bytes:
    """`gguf_io.encoders.encode`, several times as fast. threads: without, one for each core that may be used."""
    for one in (search_scales, choose_scales, place_numbers):
        _ = one.address  # compiled by one thread
    return encoders.encode(values, kind, importance, fit=CompiledFit(), threads=threads or len(usable_cores()))


class CompiledFit:
    """See `gguf_io.encoders.Fit`. Groups have at most 32 numbers."""

    def search(self, x: Floats, weights: Floats, grid: Grid) -> Scales:
        """The best scales that are found."""
        groups, size = x.shape
        x, weights, starts, levels = _floats(x, weights, grid.starts, _between(grid))
        found = np.empty((2, groups), np.float32)
        addresses = (one.ctypes.data for one in (x, weights, starts, levels, found))
        counts = groups, size, len(starts), REFITS, len(grid.levels)
        search_scales.call(*addresses, *counts, grid.low, grid.top, grid.minima + grid.below)
        return Scales(*found)

    def choose(self, x: Floats, weights: Floats, grid: Grid, d: Floats, m: Floats) -> Choice:
        """Among d and m [C, G]; of equal ones the first."""
        groups, size = x.shape
        x, weights, d, m, levels = _floats(x, weights, d, m, _between(grid))
        found = np.empty((5, groups), np.float32)
        addresses = (one.ctypes.data for one in (x, weights, d, m, levels, found))
        choose_scales.call(*addresses, groups, size, len(d), len(grid.levels), grid.low, grid.top)
        return Choice(found[0].astype(np.int64), found[1], found[2:])

    def places(self, x: Floats, d: Floats, m: Floats, grid: Grid) -> Bytes:
        """The nearest quants with scales d and m [G], as `Grid.places` counts them, [G, n]."""
        groups, size = x.shape
        x, d, m, levels = _floats(x, d, m, _between(grid))
        found = np.empty((groups, size), np.uint8)
        addresses = (one.ctypes.data for one in (x, d, m, levels, found))
        place_numbers.call(*addresses, groups, size, len(grid.levels), grid.low, grid.top)
        return found

    def nearest(self, x: Floats, weights: Floats, table: Floats, inverses: Floats) -> Nearest:
        """See the twin."""
        (groups, width), scales = x.shape, inverses.shape[1]
        x, weights, across, inverses = _floats(x, weights, table.T, inverses)
        found = np.empty((3, groups, scales), np.float32)
        addresses = (one.ctypes.data for one in (x, weights, across, inverses, found))
        nearest_entries.call(*addresses, groups, width, len(table), scales)
        return Nearest(found[0].astype(np.int64), found[1], found[2])


def _floats(*arrays: Floats) -> list[Floats]:
    return [np.ascontiguousarray(one, np.float32) for one in arrays]


def _between(grid: Grid) -> Floats:
    """Levels, and behind each but the last the middle between it and the next."""
    found = np.empty(max(1, 2 * len(grid.levels) - 1), np.float32)
    if grid.levels:
        found[::2], found[1::2] = grid.levels, grid.middles
    return found


@helper
def _inverse(d):
    """1 / d, and 0 of 0."""
    least, size = splat(np.float32(1e-30)), absolute(d)
    one = splat(np.float32(1.0))
    return where_greater(size, least, reciprocal(where_greater(size, least, d, one)), zero())


@helper
def _nearest(value, levels, n_levels, least, most):
    """Whole, from least to most; or of uneven levels, the number of which lies between least and most, and behind each
    the middle between it and the next.
    """
    if n_levels == 0:
        return minimum(maximum(nearest(value), least), most)
    found = least
    for i in range(1, n_levels):
        found = where_greater(value, splat(levels[2 * i - 1]), splat(levels[2 * i]), found)
    return found


@helper
def _to_lanes(source, block, groups, size, target):
    """Groups block to block + 15 [16, size] as [size, 16]; zeros for those that are not there."""
    for lane in range(16):
        for i in range(size):
            there = block + lane < groups
            target[16 * i + lane] = source[(block + lane) * size + i] if there else np.float32(0.0)


@helper
def _put(found, row, groups, block, lanes, value):
    """Into a row of an array [rows, groups], as many lanes as there are groups left."""
    store_f32(lanes, 0, value)
    for lane in range(min(16, groups - block)):
        found[row * groups + block + lane] = lanes[lane]


@helper
def _load_some(source, start, count, lanes):
    """As many numbers as there are, at most 16, and zeros behind them."""
    for lane in range(16):
        lanes[lane] = source[start + lane] if lane < count else np.float32(0.0)


@helper
def _sums(x, weights, size, inverse, low, levels, n_levels, least, most):
    """The weighted sums of q, q q and q x."""
    q1, q2, qx = zero(), zero(), zero()
    for i in range(size):
        value = load_f32(x, 16 * i)
        q = _nearest((value - low) * inverse, levels, n_levels, least, most)
        weighted = load_f32(weights, 16 * i) * q
        q1, q2, qx = q1 + weighted, fma(weighted, q, q2), fma(weighted, value, qx)
    return q1, q2, qx


@helper
def _totals(x, weights, size):
    """The sums of weights and of weighted numbers; the least number and the largest."""
    total, total_x = zero(), zero()
    least, most = load_f32(x, 0), load_f32(x, 0)
    for i in range(size):
        value, weight = load_f32(x, 16 * i), load_f32(weights, 16 * i)
        total, total_x = total + weight, fma(weight, value, total_x)
        least, most = minimum(value, least), maximum(value, most)
    return total, total_x, least, most


@helper
def _solved(total, total_x, q1, q2, qx, minima):
    """The best d and m of these sums, and the gain. minima: 0 there are none, 1 any, 2 at most 0."""
    d, m = qx * _inverse(q2), zero()
    if minima > 0:
        both, alone = total * q2 - q1 * q1, splat(SAME) * total * q2
        by_both = where_greater(both, alone, _inverse(both), zero())
        m = (q2 * total_x - q1 * qx) * by_both
        m = where_greater(q2, zero(), m, total_x * _inverse(total))
        if minima > 1:
            m = minimum(m, zero())
        together = where_greater(by_both, zero(), (total * qx - q1 * total_x) * by_both, d)
        d = where_greater(absolute(m), zero(), together, d)
    two = splat(np.float32(2.0))
    gain = two * (d * qx + m * total_x) - (d * d * q2 + two * d * m * q1 + m * m * total)
    return d, m, gain


@helper
def _started(start, anchor, least, most, peak, highest, minima):
    """Where a search begins: 1 / d, and m."""
    if minima == 0:
        return splat(start) * _inverse(peak), zero()
    inverse = splat(start) * _inverse(most - least)
    low = least
    if anchor > np.float32(0.5):
        low = most - highest * _inverse(inverse)
    if minima > 1:
        low = minimum(low, zero())
    return inverse, low


@kernel(types.void(*[types.int64] * 13))
def search_scales(
    x_at, weights_at, starts_at, levels_at, found_at, groups, size, n_starts, refits, n_levels, bottom, top, minima
):
    x, weights, lanes = stack_f32(512), stack_f32(512), stack_f32(16)
    starts, levels, found = f32(starts_at), f32(levels_at), f32(found_at)
    lowest, highest = splat(np.float32(bottom)), splat(np.float32(top))
    for block in range(0, groups, 16):
        _to_lanes(f32(x_at), block, groups, size, x)
        _to_lanes(f32(weights_at), block, groups, size, weights)
        total, total_x, least, most = _totals(x, weights, size)
        peak = where_greater(zero() - least, most, least, most)
        if minima > 1:
            least = minimum(least, zero())
        best, best_d, best_m = zero(), zero(), zero()
        for i in range(n_starts + refits):
            if i < n_starts:
                inverse, low = _started(starts[2 * i], starts[2 * i + 1], least, most, peak, highest, minima)
            else:
                inverse, low = _inverse(best_d), best_m
            q1, q2, qx = _sums(x, weights, size, inverse, low, levels, n_levels, lowest, highest)
            d, m, gain = _solved(total, total_x, q1, q2, qx, minima)
            best_d, best_m = where_greater(gain, best, d, best_d), where_greater(gain, best, m, best_m)
            best = maximum(gain, best)
        _put(found, 0, groups, block, lanes, best_d)
        _put(found, 1, groups, block, lanes, best_m)


@kernel(types.void(*[types.int64] * 12))
def choose_scales(x_at, weights_at, d_at, m_at, levels_at, found_at, groups, size, candidates, n_levels, bottom, top):
    x, weights, lanes = stack_f32(512), stack_f32(512), stack_f32(16)
    d_all, m_all, levels, found = f32(d_at), f32(m_at), f32(levels_at), f32(found_at)
    lowest, highest = splat(np.float32(bottom)), splat(np.float32(top))
    for block in range(0, groups, 16):
        _to_lanes(f32(x_at), block, groups, size, x)
        _to_lanes(f32(weights_at), block, groups, size, weights)
        error, number = splat(np.float32(3e38)), zero()
        q1, q2, qx = zero(), zero(), zero()
        for i in range(candidates):
            _load_some(d_all, i * groups + block, groups - block, lanes)
            d = load_f32(lanes, 0)
            _load_some(m_all, i * groups + block, groups - block, lanes)
            m = load_f32(lanes, 0)
            inverse, here = _inverse(d), zero()
            s1, s2, sx = zero(), zero(), zero()
            for k in range(size):
                value, weight = load_f32(x, 16 * k), load_f32(weights, 16 * k)
                q = _nearest((value - m) * inverse, levels, n_levels, lowest, highest)
                rest, weighted = fma(q, d, m) - value, weight * q
                here = fma(weight * rest, rest, here)
                s1, s2, sx = s1 + weighted, fma(weighted, q, s2), fma(weighted, value, sx)
            number = where_greater(error, here, splat(np.float32(i)), number)
            q1, q2 = where_greater(error, here, s1, q1), where_greater(error, here, s2, q2)
            qx, error = where_greater(error, here, sx, qx), minimum(here, error)
        _put(found, 0, groups, block, lanes, number)
        _put(found, 1, groups, block, lanes, error)
        _put(found, 2, groups, block, lanes, q1)
        _put(found, 3, groups, block, lanes, q2)
        _put(found, 4, groups, block, lanes, qx)


@helper
def _place(value, levels, n_levels, least, most):
    """How many quants, or levels, are below the nearest."""
    if n_levels == 0:
        return minimum(maximum(nearest(value), least), most) - least
    found, one = zero(), splat(np.float32(1.0))
    for i in range(1, n_levels):
        found = found + where_greater(value, splat(levels[2 * i - 1]), one, zero())
    return found


@kernel(types.void(*[types.int64] * 10))
def place_numbers(x_at, d_at, m_at, levels_at, found_at, groups, size, n_levels, bottom, top):
    x, d, m, levels, found = f32(x_at), f32(d_at), f32(m_at), f32(levels_at), i8(found_at)
    lowest, highest = splat(np.float32(bottom)), splat(np.float32(top))
    for group in range(groups):
        inverse, low = _inverse(splat(d[group])), splat(m[group])
        for i in range(group * size, (group + 1) * size, 16):
            store_i8(found, i, _place((load_f32(x, i) - low) * inverse, levels, n_levels, lowest, highest))
