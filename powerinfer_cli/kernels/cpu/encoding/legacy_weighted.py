"""Q4_0, Q4_1, Q5_0 and Q5_1 where columns differ in importance, as ggml writes them, to the bit.

What is searched for: `quantize_row_*_impl` of `ggml-quants.c`; each sum in its order, each step rounded to float32. A
lane is a block, 16 at a time; loops over lanes are plain ones, which LLVM makes vectors of without changing any sum.
"""

import numpy as np

from powerinfer_cli.kernels.jit import exact_helper, kernel, types
from powerinfer_cli.kernels.simd import address_of, f32, stack_f32, store_half, u8, u16

__all__ = ["encode_weighted"]

_TINY = np.float32(1e-15)  # groups whose numbers are all smaller count as zeros
_STEPS = 36  # of the search with a minimum


@exact_helper
def _lanes(source, block, n_blocks, target):
    """Blocks block to block + 15 [16, 32] as [32, 16]; of those that are not there, zeros."""
    for lane in range(16):
        for i in range(32):
            there = block + lane < n_blocks
            target[16 * i + lane] = source[(block + lane) * 32 + i] if there else np.float32(0.0)


@exact_helper
def _spread(row, n_cols):
    """The mean square of a row."""
    total = np.float32(0.0)
    for i in range(n_cols):
        total += row[i] * row[i]
    return total / np.float32(n_cols)


@exact_helper
def _weigh(x, importance, block, n_blocks, spread, weights):
    for lane in range(16):
        for i in range(32):
            there = block + lane < n_blocks
            weights[16 * i + lane] = importance[(block + lane) * 32 + i] if there else np.float32(0.0)
    for i in range(32):
        for lane in range(16):
            value = x[16 * i + lane]
            weights[16 * i + lane] *= np.sqrt(spread + value * value)


@exact_helper
def _peaks(x, peak, size):
    """Of each lane the first number of the largest size, and that size."""
    for lane in range(16):
        peak[lane], size[lane] = np.float32(0.0), np.float32(0.0)
    for i in range(32):
        for lane in range(16):
            value = x[16 * i + lane]
            here = abs(value)
            larger = size[lane] < here
            size[lane] = here if larger else size[lane]
            peak[lane] = value if larger else peak[lane]


@exact_helper
def _ends(x, least, most):
    for lane in range(16):
        least[lane], most[lane] = x[lane], x[lane]
    for i in range(32):
        for lane in range(16):
            value = x[16 * i + lane]
            least[lane] = value if value < least[lane] else least[lane]
            most[lane] = value if value > most[lane] else most[lane]


@exact_helper
def _symmetric_sums(x, weights, inverse, half, q, product, square):
    """Quants from -half to half - 1, moved to begin at 0, and their weighted sums with x and with themselves."""
    for lane in range(16):
        product[lane], square[lane] = np.float32(0.0), np.float32(0.0)
    for i in range(32):
        for lane in range(16):
            value, weight = x[16 * i + lane], weights[16 * i + lane]
            whole = np.rint(inverse[lane] * value)
            whole = whole if whole < half - np.float32(1.0) else half - np.float32(1.0)
            whole = whole if whole > -half else -half
            q[16 * i + lane] = whole + half
            product[lane] += weight * value * whole
            square[lane] += weight * whole * whole


@exact_helper
def _keep(better, other, q):
    for i in range(32):
        for lane in range(16):
            q[16 * i + lane] = other[16 * i + lane] if better[lane] > np.float32(0.0) else q[16 * i + lane]


@exact_helper
def _search_symmetric(x, weights, half, d, q, peak, size, inverse, product, square, best, better, other):
    _peaks(x, peak, size)
    for lane in range(16):
        inverse[lane] = -half / peak[lane] if size[lane] >= _TINY else np.float32(0.0)
    _symmetric_sums(x, weights, inverse, half, q, product, square)
    for lane in range(16):
        d[lane] = product[lane] / square[lane] if square[lane] != np.float32(0.0) else np.float32(0.0)
        best[lane] = d[lane] * product[lane]
    for step in range(-9, 10):
        if step == 0:
            continue
        aim = -(half + np.float32(0.1) * np.float32(step))
        for lane in range(16):
            inverse[lane] = aim / peak[lane] if size[lane] >= _TINY else np.float32(0.0)
        _symmetric_sums(x, weights, inverse, half, other, product, square)
        for lane in range(16):
            gains = square[lane] > np.float32(0.0) and product[lane] * product[lane] > best[lane] * square[lane]
            better[lane] = np.float32(1.0) if gains else np.float32(0.0)
            found = product[lane] / square[lane] if gains else d[lane]
            best[lane] = found * product[lane] if gains else best[lane]
            d[lane] = found
        _keep(better, other, q)
    for lane in range(16):  # of nothing but zeros
        if size[lane] < _TINY:
            d[lane] = np.float32(0.0)
            for i in range(32):
                q[16 * i + lane] = np.float32(0.0)


@exact_helper
def _errors(x, weights, q, d, low, error):
    for lane in range(16):
        error[lane] = np.float32(0.0)
    for i in range(32):
        for lane in range(16):
            rest = d[lane] * q[16 * i + lane] + low[lane] - x[16 * i + lane]
            error[lane] += weights[16 * i + lane] * (rest * rest)


@exact_helper
def _from_low(x, low, inverse, top, q):
    for i in range(32):
        for lane in range(16):
            whole = np.rint(inverse[lane] * (x[16 * i + lane] - low[lane]))
            whole = whole if whole < top else top
            q[16 * i + lane] = whole if whole > np.float32(0.0) else np.float32(0.0)


@exact_helper
def _three_sums(x, weights, q, sums):
    """Of q, q q and q x."""
    for lane in range(48):
        sums[lane] = np.float32(0.0)
    for i in range(32):
        for lane in range(16):
            quant = q[16 * i + lane]
            weighted = weights[16 * i + lane] * quant
            sums[lane] += weighted
            sums[16 + lane] += weighted * quant
            sums[32 + lane] += weighted * x[16 * i + lane]


@exact_helper
def _two_totals(x, weights, totals):
    for lane in range(16):
        totals[lane] = weights[lane]
        totals[16 + lane] = weights[lane] * x[lane]
    for i in range(1, 32):
        for lane in range(16):
            totals[lane] += weights[16 * i + lane]
            totals[16 + lane] += weights[16 * i + lane] * x[16 * i + lane]


@exact_helper
def _search_with_minimum(
    x, weights, top, d, low, q, most, inverse, best, error, better, other, sums, totals, new, wide
):
    """new: d and the minimum that a step finds, [2, 16]; wide: 1 where numbers differ."""
    zero, one = np.float32(0.0), np.float32(1.0)
    _ends(x, low, most)
    _two_totals(x, weights, totals)
    for lane in range(16):
        low[lane] = zero if low[lane] > zero else low[lane]  # zeros keep their sign
        wide[lane] = one if most[lane] > low[lane] else zero
        inverse[lane] = top / (most[lane] - low[lane]) if wide[lane] > zero else zero
        d[lane] = one / inverse[lane] if wide[lane] > zero else zero
    _from_low(x, low, inverse, top, q)
    _errors(x, weights, q, d, low, best)
    for step in range(_STEPS + 1):
        aim = np.float32(-0.9) + np.float32(0.05) * np.float32(step) + top
        for lane in range(16):
            inverse[lane] = aim / (most[lane] - low[lane]) if wide[lane] > zero else zero
        _from_low(x, low, inverse, top, other)
        _three_sums(x, weights, other, sums)
        for lane in range(16):
            q1, q2, qx, weight, weighted = sums[lane], sums[16 + lane], sums[32 + lane], totals[lane], totals[16 + lane]
            both = weight * q2 - q1 * q1
            better[lane] = one if both > zero and wide[lane] > zero else zero
            divisor = both if both > zero else one
            new[lane] = (weight * qx - weighted * q1) / divisor
            new[16 + lane] = (q2 * weighted - q1 * qx) / divisor
            alone = qx / (q2 if q2 != zero else one)
            new[lane] = alone if new[16 + lane] > zero else new[lane]
            new[16 + lane] = zero if new[16 + lane] > zero else new[16 + lane]
        for lane in range(16):
            error[lane] = zero
        for i in range(32):
            for lane in range(16):
                rest = new[lane] * other[16 * i + lane] + new[16 + lane] - x[16 * i + lane]
                error[lane] += weights[16 * i + lane] * (rest * rest)
        for lane in range(16):
            gains = better[lane] > zero and error[lane] < best[lane]
            better[lane] = one if gains else zero
            best[lane] = error[lane] if gains else best[lane]
            d[lane] = new[lane] if gains else d[lane]
        _keep(better, other, q)
        for lane in range(16):
            low[lane] = new[16 + lane] if better[lane] > zero else low[lane]


@exact_helper
def _write_nibbles(out, at, q, lane, bits):
    """16 bytes of low halves and high ones, behind the fifth bits where there are five."""
    if bits == 5:
        for part in range(4):
            fifths = np.int64(0)
            for i in range(8):
                fifths |= (np.int64(q[16 * (8 * part + i) + lane]) >> 4) << i
            out[at + part] = np.uint8(fifths)
        at += 4
    for i in range(16):
        low, high = np.int64(q[16 * i + lane]), np.int64(q[16 * (i + 16) + lane])
        out[at + i] = np.uint8((low & 15) | (high & 15) << 4)


@exact_helper
def _write(out, block, n_blocks, d, low, q, bits, minimum):
    head = 4 if minimum else 2
    size = head + (20 if bits == 5 else 16)
    for lane in range(min(16, n_blocks - block)):
        at = (block + lane) * size
        store_half(u16(address_of(out) + at), 0, d[lane])
        if minimum:
            store_half(u16(address_of(out) + at + 2), 0, low[lane])
        _write_nibbles(out, at + head, q, lane, bits)


@kernel(types.void(*[types.int64] * 7), exact=True)
def encode_weighted(x_at, importance_at, out_at, n_rows, n_cols, bits, minimum):
    """Rows [n_rows, n_cols] to blocks of 4 or 5 bits, with a minimum of their own or without; importance [n_cols]."""
    x, weights, q, other = stack_f32(512), stack_f32(512), stack_f32(512), stack_f32(512)
    d, low, peak, inverse = stack_f32(16), stack_f32(16), stack_f32(16), stack_f32(16)
    size, best, error, better = stack_f32(16), stack_f32(16), stack_f32(16), stack_f32(16)
    product, square, wide = stack_f32(16), stack_f32(16), stack_f32(16)
    sums, totals, new = stack_f32(48), stack_f32(32), stack_f32(32)
    n_blocks, half = n_cols // 32, np.float32(1 << (bits - 1))
    top = np.float32((1 << bits) - 1)
    row_bytes = n_blocks * (2 + 2 * minimum + (20 if bits == 5 else 16))
    for row in range(n_rows):
        numbers, out = f32(x_at + row * n_cols * 4), u8(out_at + row * row_bytes)
        spread = _spread(numbers, n_cols)
        for block in range(0, n_blocks, 16):
            _lanes(numbers, block, n_blocks, x)
            _weigh(x, f32(importance_at), block, n_blocks, spread, weights)
            if minimum:
                _search_with_minimum(
                    x, weights, top, d, low, q, peak, inverse, best, error, better, other, sums, totals, new, wide
                )
            else:
                _search_symmetric(x, weights, half, d, q, peak, size, inverse, product, square, best, better, other)
            _write(out, block, n_blocks, d, low, q, bits, minimum)
