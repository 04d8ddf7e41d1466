"""Bundles of 16 rows: times a token or some side by side, and unpacked for products of many.

A lane is a row's, so that nothing has to be summed across lanes, and rows shorter than a chunk leave none of it empty.
Whole numbers are the same in any order, and the others are added in that of the columns, whoever else is there.

Some tokens lie in panels, `abreast` of those that are left in each: for each 32 columns int8 q [abreast, 32], float32
d [abreast], int32 sums of q [abreast]. A row's quants are unpacked once for a panel.
"""

from powerinfer_cli.kernels.formats.ahead import asking
from powerinfer_cli.kernels.formats.format import padded
from powerinfer_cli.kernels.formats.panels import ROWS
from powerinfer_cli.kernels.jit import RUNG, Rung, helper
from powerinfer_cli.kernels.simd import (
    f32,
    i8,
    i32,
    i64,
    load32,
    lower_bundle,
    meeting_bundle,
    scale_bundle,
    starting_bundle,
    store32,
    store64,
    store_bundle,
    store_f32,
    u8,
    zeros,
)

__all__ = ["dot_whole", "pack_bundle_tokens", "unpack_bundle"]

_MOST = 8 if RUNG is Rung.VNNI else 4  # tokens of a panel, as registers allow
_GROUP_BYTES = 40  # of a token of a panel, for 32 columns


@helper
def _abreast(left):
    """Tokens of a panel, where so many are left; some of them may not be there."""
    if left <= 2:
        return 2
    return 4 if left <= 4 else _MOST


@helper
def pack_bundle_tokens(xs_address, n_tokens, n, panels):
    """Records at the addresses xs, int64 [n_tokens], to panels. Who is not there is the last one again."""
    xs, p, t = i64(xs_address), padded(n), 0
    while t < n_tokens:
        abreast = _abreast(n_tokens - t)
        for k in range(abreast):
            x = xs[min(t + k, n_tokens - 1)]
            q, d, sums, to = i8(x), f32(x + p), i32(x + p + p // 8), panels
            for g in range(n // 32):
                store32(i8(to), k * 32, load32(q, g * 32))
                f32(to + 32 * abreast)[k] = d[g]
                i32(to + 36 * abreast)[k] = sums[g]
                to += _GROUP_BYTES * abreast
        panels += n // 32 * _GROUP_BYTES * abreast
        t += abreast


def _dots(n, chunk_bytes, quants, scales, mins, has_min, offset, signed):
    """dots(bundle, x, d, sums_of_x, groups, ahead, out): x a record or (n > 1) a panel of n tokens."""
    begin, start, multiply, ask = zeros(n), starting_bundle(n, offset), meeting_bundle(signed), asking(chunk_bytes, 8)
    q_step, d_step = (32, 4) if n == 1 else (_GROUP_BYTES * n, _GROUP_BYTES * n)

    @helper
    def meet(c, k, x, there, sums):
        ask(there, k)
        return multiply(sums, quants(c, k), x + 4 * k)

    @helper
    def dots(bundle, x, d, sums_of_x, groups, ahead, out):
        results = begin()
        for g in range(groups):
            c, there = u8(bundle + g * chunk_bytes), ahead + g * chunk_bytes
            sums = start(sums_of_x)
            sums = meet(c, 0, x, there, sums)
            sums = meet(c, 1, x, there, sums)
            sums = meet(c, 2, x, there, sums)
            sums = meet(c, 3, x, there, sums)
            sums = meet(c, 4, x, there, sums)
            sums = meet(c, 5, x, there, sums)
            sums = meet(c, 6, x, there, sums)
            sums = meet(c, 7, x, there, sums)
            results = scale_bundle(results, sums, scales(c), d)
            if has_min:
                results = lower_bundle(results, sums_of_x, mins(c), d)
            x, d, sums_of_x = x + q_step, d + d_step, sums_of_x + d_step
        store_bundle(results, out)

    return dots


def dot_whole(chunk_bytes, *math):
    """The DOT_WHOLE of a format with groups of 32 weights."""
    one, two, four = (_dots(n, chunk_bytes, *math) for n in (1, 2, 4))
    most = _dots(_MOST, chunk_bytes, *math) if _MOST > 4 else four

    def dots(bundle, x, n_tokens, n, ahead, out):
        groups, t, p = n // 32, 0, padded(n)
        if n_tokens == 1:
            one(bundle, x, x + p, x + p + p // 8, groups, ahead, out)
            return
        while t < n_tokens:
            abreast = _abreast(n_tokens - t)
            d, sums, here = x + 32 * abreast, x + 36 * abreast, out + t * 64
            if abreast == 2:
                two(bundle, x, d, sums, groups, ahead, here)
            elif abreast == 4:
                four(bundle, x, d, sums, groups, ahead, here)
            else:
                most(bundle, x, d, sums, groups, ahead, here)
            x += groups * _GROUP_BYTES * abreast
            t += abreast

    return dots


def unpack_bundle(chunk_bytes, quants, scales, mins, has_min, offset, signed):
    """The UNPACK_BUNDLE of a format with groups of 32 weights."""

    def unpack(bundle, begin, end, added, panel, scales_address, mins_address):
        for g in range(begin // 32, end // 32):
            c, at = u8(bundle + g * chunk_bytes), g - begin // 32
            for k in range(8):
                store64(i8(panel), (8 * at + k) * 4 * ROWS, quants(c, k) + (added - offset))
            store_f32(f32(scales_address), at * ROWS, scales(c))
            if has_min:
                store_f32(f32(mins_address), at * ROWS, mins(c))

    return unpack
