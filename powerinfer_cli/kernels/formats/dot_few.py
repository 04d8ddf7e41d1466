"""A row times up to eight tokens, its quants unpacked once.

As DOT of each token: whole numbers are the same in any order, and the others are added in the same one.
"""

from powerinfer_cli.kernels.formats.ahead import asking
from powerinfer_cli.kernels.formats.format import padded
from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import (
    address_of,
    dot_signed,
    dot_unsigned,
    doubled,
    f32,
    fma,
    i8,
    i32,
    i64,
    load64,
    load_f32,
    load_i32,
    to_f32,
    total,
    u8,
    zero,
    zero_i32,
)

__all__ = ["dot_few"]


def _of_four(group, offset, signed):
    """For four tokens a, b, c, d: where a record's parts are; sums of products with 64 quants; what becomes of them."""
    eight, multiply = group == 32, dot_signed if signed else dot_unsigned

    @helper
    def numbers(x, p):
        """Where scales, sums and quants of a token's record are."""
        return f32(x + p), i32(x + p + p // (8 if eight else 4)), i8(x + p * (3 if eight else 5) // 2)

    @helper
    def start(a, b, c, d, i):
        if offset == 0:
            return zero_i32(), zero_i32(), zero_i32(), zero_i32()
        at = i * 16
        first, second = zero_i32() - load_i32(a[1], at) * offset, zero_i32() - load_i32(b[1], at) * offset
        return first, second, zero_i32() - load_i32(c[1], at) * offset, zero_i32() - load_i32(d[1], at) * offset

    @helper
    def add(w, a, b, c, d, at, s):
        first, second = multiply(s[0], w, load64(a[2], at)), multiply(s[1], w, load64(b[2], at))
        return first, second, multiply(s[2], w, load64(c[2], at)), multiply(s[3], w, load64(d[2], at))

    @helper
    def scaled(s, x, i):
        return s * (load_f32(x[0], i * 16) if eight else doubled(x[0], i * 8))

    @helper
    def join(s, a, b, c, d, i, sums, r):
        first, second = fma(to_f32(sums[0]), scaled(s, a, i), r[0]), fma(to_f32(sums[1]), scaled(s, b, i), r[1])
        third, fourth = fma(to_f32(sums[2]), scaled(s, c, i), r[2]), fma(to_f32(sums[3]), scaled(s, d, i), r[3])
        return first, second, third, fourth

    @helper
    def lower(m, a, b, c, d, i, r):
        at = i * 16
        first = fma(to_f32(load_i32(a[1], at)), scaled(m, a, i), r[0])
        second = fma(to_f32(load_i32(b[1], at)), scaled(m, b, i), r[1])
        third = fma(to_f32(load_i32(c[1], at)), scaled(m, c, i), r[2])
        return first, second, third, fma(to_f32(load_i32(d[1], at)), scaled(m, d, i), r[3])

    @helper
    def store(r, least, out):
        out[0], out[1] = total(r[0] + least[0]), total(r[1] + least[1])
        out[2], out[3] = total(r[2] + least[2]), total(r[3] + least[3])

    return numbers, start, add, join, lower, store


def _four(group, chunk_bytes, quants, scales, mins, has_min, offset, signed):
    """four(row, tokens, n, ahead, out)"""
    chunk, eight, ask = 16 * group, group == 32, asking(chunk_bytes, group // 4)
    numbers, start, add, join, lower, store = _of_four(group, offset, signed)

    @helper
    def step(w, a, b, c, d, there, at, k, sums):
        ask(there, k)
        return add(quants(w, k), a, b, c, d, at + 64 * k, sums)

    @helper
    def four(row, xs, n, ahead, out):
        p = padded(n)
        a, b, c, d = numbers(xs[0], p), numbers(xs[1], p), numbers(xs[2], p), numbers(xs[3], p)
        r = least = (zero(), zero(), zero(), zero())
        for i in range((n + chunk - 1) // chunk):
            w, there, at = u8(row + i * chunk_bytes), ahead + i * chunk_bytes, i * chunk
            sums = start(a, b, c, d, i)
            sums = step(w, a, b, c, d, there, at, 0, sums)
            sums = step(w, a, b, c, d, there, at, 1, sums)
            sums = step(w, a, b, c, d, there, at, 2, sums)
            sums = step(w, a, b, c, d, there, at, 3, sums)
            if eight:
                sums = step(w, a, b, c, d, there, at, 4, sums)
                sums = step(w, a, b, c, d, there, at, 5, sums)
                sums = step(w, a, b, c, d, there, at, 6, sums)
                sums = step(w, a, b, c, d, there, at, 7, sums)
            r = join(scales(w), a, b, c, d, i, sums, r)
            if has_min:
                least = lower(mins(w), a, b, c, d, i, least)
        store(r, least, out)

    return four


def _all_eight(group, chunk_bytes, quants, scales, mins, has_min, offset, signed):
    """The same for eight."""
    chunk, eight, ask = 16 * group, group == 32, asking(chunk_bytes, group // 4)
    numbers, start, add, join, lower, store = _of_four(group, offset, signed)

    @helper
    def wide_step(w, a, b, c, d, e, f, g, h, there, at, k, sums, more):
        ask(there, k)
        q = quants(w, k)
        return add(q, a, b, c, d, at + 64 * k, sums), add(q, e, f, g, h, at + 64 * k, more)

    @helper
    def all_eight(row, xs, n, ahead, out):
        p = padded(n)
        a, b, c, d = numbers(xs[0], p), numbers(xs[1], p), numbers(xs[2], p), numbers(xs[3], p)
        e, f, g, h = numbers(xs[4], p), numbers(xs[5], p), numbers(xs[6], p), numbers(xs[7], p)
        r = t = least = low = (zero(), zero(), zero(), zero())
        for i in range((n + chunk - 1) // chunk):
            w, there, at = u8(row + i * chunk_bytes), ahead + i * chunk_bytes, i * chunk
            sums, more = start(a, b, c, d, i), start(e, f, g, h, i)
            sums, more = wide_step(w, a, b, c, d, e, f, g, h, there, at, 0, sums, more)
            sums, more = wide_step(w, a, b, c, d, e, f, g, h, there, at, 1, sums, more)
            sums, more = wide_step(w, a, b, c, d, e, f, g, h, there, at, 2, sums, more)
            sums, more = wide_step(w, a, b, c, d, e, f, g, h, there, at, 3, sums, more)
            if eight:
                sums, more = wide_step(w, a, b, c, d, e, f, g, h, there, at, 4, sums, more)
                sums, more = wide_step(w, a, b, c, d, e, f, g, h, there, at, 5, sums, more)
                sums, more = wide_step(w, a, b, c, d, e, f, g, h, there, at, 6, sums, more)
                sums, more = wide_step(w, a, b, c, d, e, f, g, h, there, at, 7, sums, more)
            s = scales(w)
            r, t = join(s, a, b, c, d, i, sums, r), join(s, e, f, g, h, i, more, t)
            if has_min:
                m = mins(w)
                least, low = lower(m, a, b, c, d, i, least), lower(m, e, f, g, h, i, low)
        store(r, least, out)
        store(t, low, f32(address_of(out) + 16))

    return all_eight


def dot_few(*format_math):
    """The DOT_FEW of a format, of what its DOT is made of."""
    four, all_eight = _four(*format_math), _all_eight(*format_math)

    def dot_few(row, xs_address, n_tokens, n, ahead, out_address):
        for at in range(0, n_tokens, 8):
            xs, out, next_row = i64(xs_address + at * 8), f32(out_address + at * 4), ahead if at == 0 else row
            if n_tokens - at > 4:
                all_eight(row, xs, n, next_row, out)
            else:
                four(row, xs, n, next_row, out)

    return dot_few
