"""Bundles of 16 rows: times a token or some side by side, and unpacked for products of many.

A lane is a row's, so that nothing has to be summed across lanes, and rows shorter than a chunk leave none of it empty.
Whole numbers are the same in any order, and the others are added in that of the columns, whoever else is there.

Some tokens lie in panels, `abreast` of those that are left in each: for each 32 columns int8 q [abreast, 32], float32
d [abreast], sums of each group's q [1 or 2, abreast], int32 or, where the format has minima, times d, float32. A row's
quants are unpacked once for a panel.
"""

import numpy as np

from powerinfer_cli.kernels.formats.ahead import asking
from powerinfer_cli.kernels.formats.format import padded
from powerinfer_cli.kernels.formats.panels import ROWS
from powerinfer_cli.kernels.jit import HOST_CPU, RUNG, Rung, helper
from powerinfer_cli.kernels.simd import (
    add_bundle,
    f32,
    i8,
    i32,
    i64,
    load32,
    lowering_bundle,
    meeting_bundle,
    scale_bundle,
    scale_first,
    scale_second,
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
_NEAR_OF_TWO, _NEAR = 8192, 12288  # bytes ahead that memory is asked for, of up to two tokens and of more
# Of one token, as fast as memory: farther than this, what is asked for gets in the way of what Zen 4 reads ahead by
# itself (27 for 57 GB/s, two threads). Zen 5 likes it farther.
_NEAR_OF_ONE = 2048 if HOST_CPU == "znver4" else _NEAR_OF_TWO
_BLOCK_32, _BLOCK_16 = 40, 44  # bytes of a token of a panel for 32 columns, by the size of groups


@helper
def _abreast(left):
    """Tokens of a panel, where so many are left; some of them may not be there."""
    if left <= 2:
        return 2
    return 4 if left <= 4 else _MOST


@helper
def _pack_sums(x, p, group, has_min, offset, g, k, abreast, to):
    """Of 32 columns from the g-th 32 on, as the k-th token's."""
    for half in range(32 // group):
        at = g * (32 // group) + half
        total = i32(x + p + (p // 8 if group == 32 else p // 4))[at]
        if has_min:
            f32(to + 4 * abreast * half)[k] = np.float32(total) * f32(x + p)[g]
        else:
            i32(to + 4 * abreast * half)[k] = total * -offset


@helper
def pack_bundle_tokens(group, has_min, offset, xs_address, n_tokens, n, panels):
    """Records at the addresses xs, int64 [n_tokens], to panels. Who is not there is the last one again."""
    xs, p, t, step = i64(xs_address), padded(n), 0, _BLOCK_32 if group == 32 else _BLOCK_16
    while t < n_tokens:
        abreast = _abreast(n_tokens - t)
        for k in range(abreast):
            x, to = xs[min(t + k, n_tokens - 1)], panels
            for g in range(n // 32):
                store32(i8(to), k * 32, load32(i8(x), g * 32))
                f32(to + 32 * abreast)[k] = f32(x + p)[g]
                _pack_sums(x, p, group, has_min, offset, g, k, abreast, to + 36 * abreast)
                to += step * abreast
        panels += n // 32 * step * abreast
        t += abreast


def _adding(n, group, bundle, has_min, offset, signed):
    """add(results, c, shared, g, x, d, sums_of_x, there): results and the products of the g-th 32 columns of the chunk
    c with n tokens. Memory is asked for as much from `there` on.
    """
    quants, scales_of, mins_of = bundle.quants, bundle.scales, bundle.mins
    start, multiply = starting_bundle(n, 0 if has_min else offset), meeting_bundle(signed)
    ask, lower = asking(bundle.size * 32 // bundle.columns, 8), lowering_bundle(n == 1)
    halves, first, part, behind = 32 // group, bundle.first, bundle.part, 4 if n == 1 else 4 * n

    @helper
    def meet(c, k, x, there, a, sums):
        ask(there, a)
        return multiply(sums, quants(c, k), x)

    @helper
    def whole(results, c, shared, g, x, d, sums_of_x, there):
        here = u8(c + first + g * part)
        sums = start(sums_of_x)
        sums = meet(here, 0, x, there, 0, sums)
        sums = meet(here, 1, x + 4, there, 1, sums)
        sums = meet(here, 2, x + 8, there, 2, sums)
        sums = meet(here, 3, x + 12, there, 3, sums)
        sums = meet(here, 4, x + 16, there, 4, sums)
        sums = meet(here, 5, x + 20, there, 5, sums)
        sums = meet(here, 6, x + 24, there, 6, sums)
        sums = meet(here, 7, x + 28, there, 7, sums)
        results = scale_bundle(results, sums, scales_of(u8(c), g, shared), d)
        if has_min:
            results = lower(results, sums_of_x, mins_of(u8(c), g, shared), d)
        return results

    @helper
    def both(results, c, shared, g, x, d, sums_of_x, there):
        """Two groups of 16, which meet d together."""
        here, g = c + first + 2 * g * part, 2 * g
        sums = start(sums_of_x)
        sums = meet(u8(here), 0, x, there, 0, sums)
        sums = meet(u8(here), 1, x + 4, there, 1, sums)
        sums = meet(u8(here), 2, x + 8, there, 2, sums)
        sums = meet(u8(here), 3, x + 12, there, 3, sums)
        scaled = scale_first(sums, scales_of(u8(c), g, shared))
        sums = start(sums_of_x + behind)
        sums = meet(u8(here + part), 0, x + 16, there, 4, sums)
        sums = meet(u8(here + part), 1, x + 20, there, 5, sums)
        sums = meet(u8(here + part), 2, x + 24, there, 6, sums)
        sums = meet(u8(here + part), 3, x + 28, there, 7, sums)
        results = add_bundle(results, scale_second(scaled, sums, scales_of(u8(c), g + 1, shared)), d)
        if has_min:
            results = lower(results, sums_of_x, mins_of(u8(c), g, shared), d)
            results = lower(results, sums_of_x + behind, mins_of(u8(c), g + 1, shared), d)
        return results

    return whole if halves == 1 else both


def _dots(n, group, bundle, *math):
    """dots(bundle, x, d, sums_of_x, chunks, ahead, out): x a record or (n > 1) a panel of n tokens."""
    begin, add = zeros(n), _adding(n, group, bundle, *math)
    size, steps, shared_of = bundle.size, bundle.columns // 32, bundle.shared
    panel = (_BLOCK_32 if group == 32 else _BLOCK_16) * n
    q_step, d_step, s_step = (32, 4, 4 * (32 // group)) if n == 1 else (panel, panel, panel)
    asked = size // steps

    @helper
    def dots(bundle, x, d, sums_of_x, chunks, near, following, out):
        """Memory is asked for `near` chunks ahead, of this bundle and then of the following one."""
        results = begin()
        most = min(steps, chunks * steps)  # which LLVM does not know: unrolled, the loop is slower
        ahead = bundle + near * size
        for i in range(chunks):
            c = bundle + i * size
            if i == chunks - near:
                ahead = following
            shared = shared_of(u8(c))
            for g in range(most):
                results = add(results, c, shared, g, x, d, sums_of_x, ahead)
                x, d, sums_of_x, ahead = x + q_step, d + d_step, sums_of_x + s_step, ahead + asked
        store_bundle(results, out)

    return dots


def dot_whole(group, bundle, *math):
    """The DOT_WHOLE of a format."""
    one, two, four = (_dots(n, group, bundle, *math) for n in (1, 2, 4))
    most = _dots(_MOST, group, bundle, *math) if _MOST > 4 else four
    columns, size, step = bundle.columns, bundle.size, _BLOCK_32 if group == 32 else _BLOCK_16

    def dots(bundle, x, n_tokens, n, following, out):
        chunks, t, p = n // columns, 0, padded(n)
        if n_tokens == 1:
            near = min(chunks, max(1, _NEAR_OF_ONE // size))
            one(bundle, x, x + p, x + p + (p // 8 if group == 32 else p // 4), chunks, near, following, out)
            return
        near = chunks if n_tokens > _MOST else min(chunks, (_NEAR_OF_TWO if n_tokens <= 2 else _NEAR) // size)
        while t < n_tokens:
            abreast = _abreast(n_tokens - t)
            d, sums, here = x + 32 * abreast, x + 36 * abreast, out + t * 64
            if abreast == 2:
                two(bundle, x, d, sums, chunks, near, following, here)
            elif abreast == 4:
                four(bundle, x, d, sums, chunks, near, following, here)
            else:
                most(bundle, x, d, sums, chunks, near, following, here)
            x += n // 32 * step * abreast
            t += abreast

    return dots


def unpack_bundle(group, bundle, has_min, offset, signed):
    """The UNPACK_BUNDLE of a format."""
    size, first, part, steps, groups, vectors = (
        bundle.size,
        bundle.first,
        bundle.part,
        bundle.columns // 32,
        32 // group,
        group // 4,
    )
    quants, shared_of, scales_of, mins_of = bundle.quants, bundle.shared, bundle.scales, bundle.mins

    def unpack(bundle, begin, end, added, panel, scales_address, mins_address):
        at = 0
        for i in range(begin // 32, end // 32):
            c = bundle + i // steps * size
            shared = shared_of(u8(c))
            for half in range(groups):
                g = i % steps * groups + half
                for k in range(vectors):
                    store64(
                        i8(panel), (vectors * at + k) * 4 * ROWS, quants(u8(c + first + g * part), k) + (added - offset)
                    )
                store_f32(f32(scales_address), at * ROWS, scales_of(u8(c), g, shared))
                if has_min:
                    store_f32(f32(mins_address), at * ROWS, mins_of(u8(c), g, shared))
                at += 1

    return unpack
