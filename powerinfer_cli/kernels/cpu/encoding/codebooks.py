"""The nearest entries of a table for groups of numbers, at several scales: the compiled twin of `PlainFit.nearest`.

A lane is an entry: 16 of them at a time, whatever the CPU's registers.
"""

import numpy as np

from powerinfer_cli.kernels.jit import helper, kernel, types
from powerinfer_cli.kernels.simd import f32, fma, load_f32, minimum, splat, stack_f32, store_f32, where_greater, zero

__all__ = ["MOST_SCALES", "nearest_entries"]

MOST_SCALES = 16


@helper
def _first_of_the_least(costs, numbers, at):
    """The number of the least of 16 costs; of equal ones the least number."""
    best, number = costs[at], numbers[at]
    for lane in range(1, 16):
        cost, here = costs[at + lane], numbers[at + lane]
        if cost < best or (cost == best and here < number):
            best, number = cost, here
    return number


@kernel(types.void(*[types.int64] * 9))
def nearest_entries(x_at, weights_at, table_at, inverses_at, found_at, groups, width, n_entries, scales):
    """table [width, n_entries]; inverses [groups, scales]: of what entries are multiplied by. found [3, groups,
    scales]: an entry's number, and its weighted sums of q x and q q.
    """
    x, weights, table, inverses, found = f32(x_at), f32(weights_at), f32(table_at), f32(inverses_at), f32(found_at)
    costs, numbers, lanes = stack_f32(256), stack_f32(256), stack_f32(16)
    for lane in range(16):
        lanes[lane] = np.float32(lane)
    first = load_f32(lanes, 0)
    for group in range(groups):
        for s in range(scales):
            store_f32(costs, 16 * s, splat(np.float32(3e38)))
            store_f32(numbers, 16 * s, zero())
        for start in range(0, n_entries, 16):
            qx, qq = zero(), zero()
            for i in range(width):
                q = load_f32(table, i * n_entries + start)
                weighted = splat(weights[group * width + i]) * q
                qx, qq = fma(weighted, splat(x[group * width + i]), qx), fma(weighted, q, qq)
            number = first + splat(np.float32(start))
            for s in range(scales):
                cost = fma(splat(np.float32(-2.0) * inverses[group * scales + s]), qx, qq)
                least = load_f32(costs, 16 * s)
                store_f32(numbers, 16 * s, where_greater(least, cost, number, load_f32(numbers, 16 * s)))
                store_f32(costs, 16 * s, minimum(cost, least))
        for s in range(scales):
            number = _first_of_the_least(costs, numbers, 16 * s)
            entry = int(number)
            qx, qq = np.float32(0.0), np.float32(0.0)
            for i in range(width):
                q = table[i * n_entries + entry]
                weighted = weights[group * width + i] * q
                qx, qq = qx + weighted * x[group * width + i], qq + weighted * q
            at = group * scales + s
            found[at] = number
            found[groups * scales + at] = qx
            found[2 * groups * scales + at] = qq
