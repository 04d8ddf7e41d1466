"""From float32 to a quantised record (see `formats.format`)."""

import numpy as np

from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import (
    absolute,
    f32,
    i8,
    i32,
    lanes_of_16,
    lanes_of_32,
    largest,
    load_f32,
    maximum,
    nearest,
    splat,
    store_i8,
    total,
)

__all__ = ["quantise_groups"]


@helper
def quantise_groups(x, begin, end, record, p):
    """Quantise x[begin:end] (multiples of 512) into its place of a record whose padded length is p."""
    q, d = i8(record), f32(record + p)
    sums, half_sums = i32(record + p + p // 8), i32(record + p + p // 4)
    for i in range(begin, end, 32):
        low, high = load_f32(x, i), load_f32(x, i + 16)
        peak = largest(maximum(absolute(low), absolute(high)))
        scale = peak / np.float32(127.0)
        inverse = np.float32(127.0) / peak if peak > np.float32(1e-30) else np.float32(0.0)
        low, high = nearest(low * splat(inverse)), nearest(high * splat(inverse))
        store_i8(q, i, low)
        store_i8(q, i + 16, high)
        sum_low, sum_high = total(low), total(high)
        d[i // 32] = scale + (sum_low + sum_high) * np.float32(0.0)  # NaN, which no byte can be, stays in the scale
        first, second = np.int32(sum_low), np.int32(sum_high)
        half_sums[i // 16], half_sums[i // 16 + 1] = first, second
        sums[i // 32] = first + second
    for i in range(begin, end, 512):
        lanes_of_32(i8(record + i), i8(record + p * 3 // 2 + i))
        lanes_of_16(i8(record + i), i8(record + p * 5 // 2 + i))
        lanes_of_16(i8(record + i + 256), i8(record + p * 5 // 2 + i + 256))
