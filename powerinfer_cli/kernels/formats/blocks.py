"""The kernels of block formats, made from their layout and a few small functions of each: how to read a chunk of GGUF
blocks, and the scales and the minima of a repacked chunk.
"""

from typing import Any

import numpy as np

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.formats.ahead import asking
from powerinfer_cli.kernels.formats.bundles import Bundle, Tail, groups_bundle, repack_superblocks, superblocks_bundle
from powerinfer_cli.kernels.formats.dot_bundle import dot_bundle
from powerinfer_cli.kernels.formats.dot_few import dot_few, dot_some
from powerinfer_cli.kernels.formats.format import (
    AXPY,
    AXPY4,
    DOT,
    DOT_BUNDLE,
    DOT_FEW,
    DOT_SOME,
    DOT_WHOLE,
    REPACK,
    UNPACK,
    UNPACK_BUNDLE,
    Format,
    Whole,
    padded,
)
from powerinfer_cli.kernels.formats.layouts import Layout
from powerinfer_cli.kernels.formats.whole import dot_whole, unpack_bundle
from powerinfer_cli.kernels.jit import Kernel, helper, kernel
from powerinfer_cli.kernels.simd import (
    address_of,
    byte,
    dot_signed,
    dot_unsigned,
    doubled,
    f32,
    fma,
    groups_of_16,
    groups_of_32,
    i8,
    i32,
    i64,
    lanes_of_16,
    lanes_of_32,
    load64,
    load_f32,
    load_i32,
    plus,
    product,
    splat,
    stack_f32,
    store64,
    store_f32,
    to_f32,
    total,
    u8,
    zero,
    zero64,
    zero_i32,
)

__all__ = ["make_format"]

# Of a format: read(source, q, m) makes bytes of the m quants of a chunk's GGUF blocks;
# put_scales(source, target, m) puts their scales and minima into a repacked chunk, which holds zeros;
# scales(chunk) and mins(chunk) -> those of a repacked chunk's 16 groups as float32.
Part = Any


@helper
def _no_mins(chunk):
    return zero()


def make_format(
    kind: GGMLType,
    group: int,
    layout: Layout,
    extra: int,
    read: Part,
    put_scales: Part,
    scales: Part,
    mins: Part = None,
    offset: int = 0,
    signed: bool = False,
    *,
    asked: bool = False,
    tail: Tail | None = None,
) -> Format:
    """The format whose weights are scale * (q - offset) + min. `extra`: bytes behind the quants of a repacked chunk.

    asked: there is a DOT_BUNDLE, for which GGUF blocks are groups. tail: where superblocks have their scales; None:
    GGUF blocks are groups.
    `signed`: q is within -128..127 and the offset 0; else q is within 0..127 (0..255 where products take any
    unsigned byte).
    """
    name, has_min, chunk_bytes = kind.name.lower(), mins is not None, layout.size + extra

    def row_bytes(n: int) -> int:
        return -(-n // (16 * group)) * chunk_bytes

    shape = group, chunk_bytes
    math = layout.quants, scales, mins or _no_mins, has_min, offset, signed
    repack = kernel(REPACK, f"repack_{name}")(_repack(kind, *shape, read, layout.pack, put_scales))
    if tail is None:
        bundle, repack_bundle = groups_bundle(chunk_bytes, *math[:3]), repack
    else:
        bundle = superblocks_bundle(group, layout, tail)
        made = repack_superblocks(kind, group, layout, read, put_scales, tail)
        repack_bundle = kernel(REPACK, f"repack_bundle_{name}")(made)
    return Format(
        kind,
        group,
        has_min,
        layout.bits,
        row_bytes,
        repack,
        kernel(DOT, f"dot_{name}")(_dot(*shape, *math)),
        kernel(DOT_FEW, f"dot_few_{name}")(dot_few(*shape, *math)),
        kernel(DOT_SOME, f"dot_some_{name}")(dot_some(*shape, *math)),
        kernel(DOT_BUNDLE, f"dot_bundle_{name}")(dot_bundle(*shape, *math)) if asked else None,
        kernel(AXPY, f"axpy_{name}")(_axpy(*shape, *math)),
        kernel(AXPY4, f"axpy4_{name}")(_axpy4(*shape, *math)),
        kernel(UNPACK, f"unpack_{name}")(_unpack(*shape, *math)),
        _whole(name, group, bundle, repack_bundle, *math[3:]),
        offset,
    )


def _whole(name: str, group: int, bundle: Bundle, repack: Kernel, has_min: bool, offset: int, signed: bool) -> Whole:
    math = has_min, offset, signed
    return Whole(
        bundle.columns,
        bundle.size,
        repack,
        kernel(DOT_WHOLE, f"dot_whole_{name}")(dot_whole(group, bundle, *math)),
        kernel(UNPACK_BUNDLE, f"unpack_bundle_{name}")(unpack_bundle(group, bundle, *math)),
    )


def _repack(kind, group, chunk_bytes, read, pack, put_scales):
    block_weights, block_bytes = BLOCK[kind]
    chunk, vectors, to_lanes = 16 * group, group // 4, lanes_of_32 if group == 32 else lanes_of_16

    def repack(source_address, target_address, n):
        q = u8(address_of(stack_f32(128)))
        for start in range(0, n, chunk):
            source = u8(source_address + start // block_weights * block_bytes)
            target, m = u8(target_address + start // chunk * chunk_bytes), min(n - start, chunk)
            if m < chunk:
                for k in range(vectors):
                    store64(q, 64 * k, zero64())
                for i in range(chunk_bytes):
                    target[i] = 0
            read(source, q, m)
            to_lanes(q, q)
            pack(q, target)
            put_scales(source, target, m)

    return repack


def _dot(group, chunk_bytes, quants, scales, mins, has_min, offset, signed):
    chunk, eight, multiply = 16 * group, group == 32, dot_signed if signed else dot_unsigned
    ask = asking(chunk_bytes, group // 4)

    @helper
    def add(c, x, ahead, k, sums):
        ask(ahead, k)
        return multiply(sums, quants(c, k), load64(x, 64 * k))

    def dot(row_address, x, n, ahead):
        """Two sums for a chunk, for one would wait for itself."""
        p = padded(n)
        d, sums = f32(x + p), i32(x + p + p // (8 if eight else 4))
        q = x + p * (3 if eight else 5) // 2
        result, least = zero(), zero()
        for i in range((n + chunk - 1) // chunk):
            c, here, there = u8(row_address + i * chunk_bytes), i8(q + i * chunk), ahead + i * chunk_bytes
            xd = load_f32(d, i * 16) if eight else doubled(d, i * 8)
            a, b = zero_i32() - load_i32(sums, i * 16) * offset, zero_i32()
            a, b = add(c, here, there, 0, a), add(c, here, there, 1, b)
            a, b = add(c, here, there, 2, a), add(c, here, there, 3, b)
            if eight:
                a, b = add(c, here, there, 4, a), add(c, here, there, 5, b)
                a, b = add(c, here, there, 6, a), add(c, here, there, 7, b)
            result = fma(to_f32(a + b), product(scales(c), xd), result)
            if has_min:
                least = fma(to_f32(load_i32(sums, i * 16)), product(mins(c), xd), least)
        return total(plus(result, least) if has_min else result)

    return dot


def _adding(quants, scales, mins, has_min, offset, signed):
    """For sums of rows: factors(c, a) -> a times the chunk's scales as `add` takes them, and a times what each weight
    has whatever its quant; add(q, factors, y) adds 64 quants to four vectors.
    """
    flip = 128 if signed else 0  # bytes are taken as unsigned
    below = np.float32(-(offset + flip))

    @helper
    def factors(c, a):
        s = scales(c) * splat(a)
        rest = s * splat(below)
        if has_min:
            rest = rest + mins(c) * splat(a)
        return (s, s * splat(np.float32(2.0**-8)), s * splat(np.float32(2.0**-16))), rest

    @helper
    def add(c, k, s, y):
        q = quants(c, k) ^ flip
        y0, y1 = fma(byte(q, 0), s[0], y[0]), fma(byte(q, 1), s[1], y[1])
        y2, y3 = fma(byte(q, 2), s[2], y[2]), fma(byte(q, 3), s[0], y[3])
        return y0, y1, y2, y3

    return factors, add


@helper
def _load4(y, at, rest):
    """64 sums, and what each gets whatever the quants."""
    y0, y1 = load_f32(y, at) + rest, load_f32(y, at + 16) + rest
    return y0, y1, load_f32(y, at + 32) + rest, load_f32(y, at + 48) + rest


@helper
def _store4(y, at, values):
    store_f32(y, at, values[0])
    store_f32(y, at + 16, values[1])
    store_f32(y, at + 32, values[2])
    store_f32(y, at + 48, values[3])


def _axpy(group, chunk_bytes, *math):
    chunk, vectors = 16 * group, group // 4
    factors, add = _adding(*math)

    def axpy(row_address, n, a, y_address):
        y = f32(y_address)
        for i in range((n + chunk - 1) // chunk):
            c = u8(row_address + i * chunk_bytes)
            s, rest = factors(c, a)
            for k in range(vectors):
                at = i * chunk + k * 64
                _store4(y, at, add(c, k, s, _load4(y, at, rest)))

    return axpy


def _axpy4(group, chunk_bytes, *math):
    """Four rows at a time: a sum is loaded and stored once for the four, which is what a single row's time goes to."""
    chunk, vectors = 16 * group, group // 4
    factors, add = _adding(*math)
    ask = asking(chunk_bytes, vectors)

    @helper
    def step(c, s, rest, y, at, next_rows, k):
        ask(next_rows[0], k)
        ask(next_rows[1], k)
        ask(next_rows[2], k)
        ask(next_rows[3], k)
        values = add(c[1], k, s[1], add(c[0], k, s[0], _load4(y, at + 64 * k, rest)))
        _store4(y, at + 64 * k, add(c[3], k, s[3], add(c[2], k, s[2], values)))

    def axpy4(rows_address, n, a_address, y_address):
        rows, a, y = i64(rows_address), f32(a_address), f32(y_address)
        for i in range((n + chunk - 1) // chunk):
            at, out = i * chunk_bytes, i * chunk
            c = u8(rows[0] + at), u8(rows[1] + at), u8(rows[2] + at), u8(rows[3] + at)
            there = rows[4] + at, rows[5] + at, rows[6] + at, rows[7] + at
            s0, rest0 = factors(c[0], a[0])
            s1, rest1 = factors(c[1], a[1])
            s2, rest2 = factors(c[2], a[2])
            s3, rest3 = factors(c[3], a[3])
            s, rest = (s0, s1, s2, s3), (rest0 + rest1) + (rest2 + rest3)
            step(c, s, rest, y, out, there, 0)
            step(c, s, rest, y, out, there, 1)
            step(c, s, rest, y, out, there, 2)
            step(c, s, rest, y, out, there, 3)
            if vectors == 8:
                step(c, s, rest, y, out, there, 4)
                step(c, s, rest, y, out, there, 5)
                step(c, s, rest, y, out, there, 6)
                step(c, s, rest, y, out, there, 7)

    return axpy4


def _unpack(group, chunk_bytes, quants, scales, mins, has_min, offset, signed):
    chunk, eight, to_groups = 16 * group, group == 32, groups_of_32 if group == 32 else groups_of_16

    @helper
    def put(c, k, room):
        store64(room, 64 * k, quants(c, k) - offset)

    def unpack(row_address, n, begin, end, q_address, scales_address, mins_address):
        q, s_out, m_out = i8(q_address), f32(scales_address), f32(mins_address)
        s, m, room = stack_f32(16), stack_f32(16), i8(address_of(stack_f32(128)))
        for start in range(begin // chunk * chunk, end, chunk):
            c = u8(row_address + start // chunk * chunk_bytes)
            first, last = max(start, begin), min(start + chunk, end)
            put(c, 0, room)
            put(c, 1, room)
            put(c, 2, room)
            put(c, 3, room)
            if eight:
                put(c, 4, room)
                put(c, 5, room)
                put(c, 6, room)
                put(c, 7, room)
            to_groups(room, room)
            for i in range(first, last, 64):
                store64(q, i - begin, load64(room, i - start))
            store_f32(s, 0, scales(c))
            if has_min:
                store_f32(m, 0, mins(c))
            for g in range((first - start) // group, (last - start) // group):
                s_out[(start - begin) // group + g] = s[g]
                if has_min:
                    m_out[(start - begin) // group + g] = m[g]

    return unpack
