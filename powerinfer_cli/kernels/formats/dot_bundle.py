"""A bundle of 16 rows times a token, or four: a lane is a row's, so that nothing has to be summed across lanes, and
rows shorter than a chunk leave none of it empty.

Whole numbers are the same in any order, and the others are added in that of the columns, whoever else is there.
"""

from powerinfer_cli.kernels.formats.ahead import asking
from powerinfer_cli.kernels.formats.format import padded
from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import (
    dot_signed,
    dot_unsigned,
    f32,
    fma,
    i8,
    i32,
    i64,
    quad,
    splat,
    splat_i32,
    store_f32,
    to_f32,
    u8,
    zero,
)

__all__ = ["dot_bundle"]

_TURNS = 64  # addresses in the table of what is asked for


@helper
def _numbers(x, p):
    """Where a record's quants, scales and sums are."""
    return i8(x), f32(x + p), i32(x + p + p // 8)


def _sums(scales, mins, has_min, offset):
    """Of a group of columns: where sums of products start, and what becomes of them."""

    @helper
    def start(x, g):
        return splat_i32(-offset * x[2][g])

    @helper
    def joined(c, x, g, products, result):
        d = splat(x[1][g])
        result = fma(to_f32(products), scales(c) * d, result)
        if has_min:
            result = fma(to_f32(splat_i32(x[2][g])), mins(c) * d, result)
        return result

    return start, joined


def _one(group, chunk_bytes, quants, scales, mins, has_min, offset, signed):
    """one(bundle, x, groups, aheads, out)"""
    multiply, ask = dot_signed if signed else dot_unsigned, asking(chunk_bytes, group // 4)
    start, joined = _sums(scales, mins, has_min, offset)

    @helper
    def two(c, x, g, there, k, a, b):
        """Products of the chunk's vectors k and k + 1."""
        ask(there, k)
        ask(there, k + 1)
        at = g * 32 + k * 4
        return multiply(a, quants(c, k), quad(x[0], at)), multiply(b, quants(c, k + 1), quad(x[0], at + 4))

    @helper
    def one(bundle, x, groups, aheads, out):
        result = zero()
        for g in range(groups):
            c, there = u8(bundle + g * chunk_bytes), aheads[g % _TURNS]
            a, b = start(x, g), splat_i32(0)
            a, b = two(c, x, g, there, 0, a, b)
            a, b = two(c, x, g, there, 2, a, b)
            a, b = two(c, x, g, there, 4, a, b)
            a, b = two(c, x, g, there, 6, a, b)
            result = joined(c, x, g, a + b, result)
        store_f32(out, 0, result)

    return one


def _four(chunk_bytes, quants, scales, mins, has_min, offset, signed):
    """four(bundle, xs, groups, out)"""
    multiply = dot_signed if signed else dot_unsigned
    start, joined = _sums(scales, mins, has_min, offset)

    @helper
    def meet(w, xs, at, sums):
        a, b, c, d = xs
        first, second = multiply(sums[0], w, quad(a[0], at)), multiply(sums[1], w, quad(b[0], at))
        return first, second, multiply(sums[2], w, quad(c[0], at)), multiply(sums[3], w, quad(d[0], at))

    @helper
    def four(bundle, xs, groups, out):
        a, b, c, d = xs
        r0, r1, r2, r3 = zero(), zero(), zero(), zero()
        for g in range(groups):
            w, at = u8(bundle + g * chunk_bytes), g * 32
            sums = start(a, g), start(b, g), start(c, g), start(d, g)
            sums = meet(quants(w, 0), xs, at, sums)
            sums = meet(quants(w, 1), xs, at + 4, sums)
            sums = meet(quants(w, 2), xs, at + 8, sums)
            sums = meet(quants(w, 3), xs, at + 12, sums)
            sums = meet(quants(w, 4), xs, at + 16, sums)
            sums = meet(quants(w, 5), xs, at + 20, sums)
            sums = meet(quants(w, 6), xs, at + 24, sums)
            sums = meet(quants(w, 7), xs, at + 28, sums)
            r0, r1 = joined(w, a, g, sums[0], r0), joined(w, b, g, sums[1], r1)
            r2, r3 = joined(w, c, g, sums[2], r2), joined(w, d, g, sums[3], r3)
        store_f32(out, 0, r0)
        store_f32(out, 16, r1)
        store_f32(out, 32, r2)
        store_f32(out, 48, r3)

    return four


def dot_bundle(group, chunk_bytes, *math):
    """Of a format with groups of 32 weights."""
    one, four = _one(group, chunk_bytes, *math), _four(chunk_bytes, *math)

    def dots(bundle, xs_address, n_tokens, n, aheads_address, out_address):
        xs, aheads, p, groups = i64(xs_address), i64(aheads_address), padded(n), n // 32
        if n_tokens == 1:
            one(bundle, _numbers(xs[0], p), groups, aheads, f32(out_address))
            return
        for t in range(0, n_tokens, 4):
            tokens = _numbers(xs[t], p), _numbers(xs[t + 1], p), _numbers(xs[t + 2], p), _numbers(xs[t + 3], p)
            four(bundle, tokens, groups, f32(out_address + t * 64))

    return dots
