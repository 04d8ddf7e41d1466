"""Rows times a few tokens: their quants unpacked once for the tokens of a panel.

As DOT of each: whole numbers are the same in any order, and the others are multiplied and added in the same one.
"""

from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.kernels.formats.ahead import asking
from powerinfer_cli.kernels.formats.format import ROWS_AT_ONCE
from powerinfer_cli.kernels.formats.token_panels import ABREAST, token_bytes
from powerinfer_cli.kernels.jit import RUNG, Rung, helper
from powerinfer_cli.kernels.simd import (
    f32,
    i64,
    load_f32,
    lower,
    multiplying,
    neighbours,
    plus,
    scale,
    stack_f32,
    starting,
    store_f32,
    tokens_at,
    total,
    u8,
    zero,
)

__all__ = ["dot_few", "dot_some"]

_PAIR = 2 if RUNG is Rung.VNNI else 1  # rows that meet a token's vector once it is loaded, as registers allow
_COLUMNS = 1024  # of a panel at a time: what the first cache holds beside rows and sums


def _of_rows(rows, part):
    """values(row, second, at, k): what `part` makes of the chunks at `at` of so many rows."""

    @helper
    def of_one(row, second, at, k):
        return (part(u8(row + at), k),)

    @helper
    def of_two(row, second, at, k):
        return part(u8(row + at), k), part(u8(second + at), k)

    return of_one if rows == 1 else of_two


def _of_chunk(part):
    @helper
    def of_chunk(chunk, k):
        return part(chunk)

    return of_chunk


def _adding(rows, group, chunk_bytes, quants, scales, mins, has_min, offset, signed):
    """add(row, second, xs, i, there, asked, highs, lows, place): the products of chunk i with the tokens at xs, to sums
    of 16 lanes for each row and token, those of minima apart. Memory is asked for as much of two rows from `there`, a
    pair of addresses, on; of a chunk's parts those whose bits `asked` has.
    """
    eight, step_bytes, vectors = group == 32, 64 * ABREAST, group // 4
    ask, two = asking(chunk_bytes, vectors), rows == 2
    quants_of, scales_of, mins_of = (_of_rows(rows, one) for one in (quants, _of_chunk(scales), _of_chunk(mins)))
    start, multiply = starting(rows, offset), multiplying(signed)

    @helper
    def step(row, second, xs, at, x, there, asked, k, sums):
        if asked >> k & 1:
            ask(there[0] + at, k)
            if two:
                ask(there[1] + at, k)
        return multiply(sums, quants_of(row, second, at, k), xs, x + k * step_bytes)

    @helper
    def add(row, second, xs, i, there, asked, highs, lows, place):
        at, x = i * chunk_bytes, i * (vectors + 2) * step_bytes
        d, sums_at = x + vectors * step_bytes, x + (vectors + 1) * step_bytes
        sums = start(xs, sums_at)
        sums = step(row, second, xs, at, x, there, asked, 0, sums)
        sums = step(row, second, xs, at, x, there, asked, 1, sums)
        sums = step(row, second, xs, at, x, there, asked, 2, sums)
        sums = step(row, second, xs, at, x, there, asked, 3, sums)
        if eight:
            sums = step(row, second, xs, at, x, there, asked, 4, sums)
            sums = step(row, second, xs, at, x, there, asked, 5, sums)
            sums = step(row, second, xs, at, x, there, asked, 6, sums)
            sums = step(row, second, xs, at, x, there, asked, 7, sums)
        scale(sums, scales_of(row, second, at, 0), xs, d, highs, place)
        if has_min:
            lower(mins_of(row, second, at, 0), xs, sums_at, d, lows, place)

    return add


@helper
def _clear(sums, n):
    for at in range(0, n, 16):
        store_f32(sums, at, zero())


@helper
def _total(highs, lows, at, has_min):
    return total(plus(load_f32(highs, at), load_f32(lows, at)) if has_min else load_f32(highs, at))


def _panel(group, *format_math):
    """panel(rows, stride, n_rows, x, n, ahead, asked, out): rows times a panel of tokens, so many columns at a time."""
    chunk, has_min, pair, room = 16 * group, format_math[4], _PAIR, ROWS_AT_ONCE * ABREAST * 16
    at_once = _COLUMNS // chunk
    add, side_by_side = _adding(pair, group, *format_math), neighbours(ABREAST)

    @helper
    def panel(rows, stride, n_rows, x, n, ahead, asked, out):
        highs, lows, xs, chunks = stack_f32(room), stack_f32(room), side_by_side(x), (n + chunk - 1) // chunk
        used = (n_rows + pair - 1) // pair * pair * ABREAST * 16
        _clear(highs, used)
        if has_min:
            _clear(lows, used)
        for begin in range(0, chunks, at_once):
            for r in range(0, n_rows, pair):
                row = rows + r * stride
                second = row + stride if r + 1 < n_rows else row
                there = ahead + r * stride, ahead + (r + 1) * stride
                for i in range(begin, min(begin + at_once, chunks)):
                    add(row, second, xs, i, there, asked, highs, lows, r * ABREAST * 16)
        for r in range(n_rows):
            for t in range(ABREAST):
                out[r * FEW + t] = _total(highs, lows, (r * ABREAST + t) * 16, has_min)

    return panel


def dot_few(group, *format_math):
    """The DOT_FEW of a format, of what its DOT is made of."""
    panel = _panel(group, *format_math)

    def dot_few(rows, stride, n_rows, x, n_tokens, n, ahead, out):
        """Panels ask for the rows ahead by turns, so that memory is busy all the time."""
        one, panels = token_bytes(group, n), (n_tokens + ABREAST - 1) // ABREAST
        for turn in range(panels):
            asked, t = 0, turn * ABREAST
            for k in range(turn, 8, panels):
                asked |= 1 << k
            panel(rows, stride, n_rows, x + t * one, n, ahead, asked, f32(out + t * 4))

    return dot_few


def dot_some(group, *format_math):
    """The DOT_SOME of a format."""
    chunk, has_min, room = 16 * group, format_math[4], ABREAST * 16
    add, those = _adding(1, group, *format_math), tokens_at(ABREAST)

    def dot_some(row, xs, n, ahead, out_address):
        highs, lows, some, out = stack_f32(room), stack_f32(room), those(i64(xs)), f32(out_address)
        _clear(highs, room)
        if has_min:
            _clear(lows, room)
        for i in range((n + chunk - 1) // chunk):
            add(row, row, some, i, (ahead, ahead), 255, highs, lows, 0)
        for t in range(ABREAST):
            out[t] = _total(highs, lows, t * 16, has_min)

    return dot_some
