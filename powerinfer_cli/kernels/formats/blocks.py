"""The kernels of block formats, made from four small functions of each: how to repack a chunk of weights, and how to
unpack 64 quants, the scales and the minima of a repacked chunk.
"""

from collections.abc import Callable
from typing import Any

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.formats.format import AXPY, AXPY4, CHUNK, DOT, REPACK, UNPACK, Format
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.simd import (
    dot_signed,
    dot_unsigned,
    doubled,
    f32,
    fma,
    four,
    i8,
    i32,
    i64,
    load64,
    load_f32,
    load_i32,
    pair,
    prefetch,
    quarter,
    splat,
    stack_f32,
    store64,
    store_f32,
    to_f32,
    total,
    u8,
    zero,
    zero_i32,
)

__all__ = ["make_format"]

# Of a format: repack(source, target, m) rearranges the GGUF blocks of a chunk of m weights;
# quants(chunk, m, at) -> 64 quants from weight `at`, a multiple of 64, of a chunk that has m weights;
# scales(chunk, m) and mins(chunk, m) -> those of the chunk's 16 groups as float32, 0 for groups that it does not have.
Unpacker = Any


@helper
def _no_mins(chunk, m):
    return zero()


def make_format(
    kind: GGMLType,
    group: int,
    chunk_bytes: Callable[[int], int],
    repack: Unpacker,
    quants: Unpacker,
    scales: Unpacker,
    mins: Unpacker = None,
    offset: int = 0,
    signed: bool = False,
) -> Format:
    """The format whose weights are scale * (q - offset) + min. `chunk_bytes`: of a repacked chunk of m weights.

    `signed`: q is within -128..127 and the offset 0; else q is within 0..127 (0..255 on the VNNI rung).
    """
    name, chunk, has_min = kind.name.lower(), 16 * group, mins is not None
    whole = chunk_bytes(chunk)

    def row_bytes(n: int) -> int:
        return n // chunk * whole + chunk_bytes(n % chunk)

    shape = group, whole
    math = quants, scales, mins or _no_mins, has_min, offset
    dot = (_dot_32 if group == 32 else _dot_16)(whole, dot_signed if signed else dot_unsigned, *math)
    return Format(
        kind,
        group,
        has_min,
        row_bytes,
        kernel(REPACK, f"repack_{name}")(_repack(kind, *shape, repack)),
        kernel(DOT, f"dot_{name}")(dot),
        kernel(AXPY, f"axpy_{name}")(_axpy(*shape, *math)),
        kernel(AXPY4, f"axpy4_{name}")(_axpy4(*shape, *math)),
        kernel(UNPACK, f"unpack_{name}")(_unpack(*shape, *math)),
    )


def _repack(kind, group, chunk_bytes, repack_chunk):
    block_weights, block_bytes = BLOCK[kind]
    chunk = 16 * group

    def repack(source_address, target_address, n):
        for start in range(0, n, chunk):
            source = u8(source_address + start // block_weights * block_bytes)
            repack_chunk(source, u8(target_address + start // chunk * chunk_bytes), min(n - start, chunk))

    return repack


def _dot_32(chunk_bytes, multiply, quants, scales, mins, has_min, offset):
    def dot(row_address, x, n, ahead):
        """A chunk is 8 products of 64 bytes, each into 16 lanes, 8 lanes to a group."""
        p = (n + CHUNK - 1) // CHUNK * CHUNK
        q, d, sums = i8(x), f32(x + p), i32(x + p + p // 8)
        even, odd, rest = zero(), zero(), zero()
        for at in range(0, n, 512):
            start = (at >> 9) * chunk_bytes
            c, m = u8(row_address + start), min(n - at, 512)
            for line in range(0, chunk_bytes, 64):
                prefetch(ahead + start + line)
            xd = load_f32(d, at >> 5)
            s = scales(c, m) * xd
            if has_min:
                rest = fma(mins(c, m) * xd, to_f32(load_i32(sums, at >> 5)), rest)
            if offset:
                rest = fma(s * splat(-offset), to_f32(load_i32(sums, at >> 5)), rest)
            even = fma(to_f32(multiply(zero_i32(), quants(c, m, 0), load64(q, at))), pair(s, 0), even)
            odd = fma(to_f32(multiply(zero_i32(), quants(c, m, 64), load64(q, at + 64))), pair(s, 1), odd)
            even = fma(to_f32(multiply(zero_i32(), quants(c, m, 128), load64(q, at + 128))), pair(s, 2), even)
            odd = fma(to_f32(multiply(zero_i32(), quants(c, m, 192), load64(q, at + 192))), pair(s, 3), odd)
            even = fma(to_f32(multiply(zero_i32(), quants(c, m, 256), load64(q, at + 256))), pair(s, 4), even)
            odd = fma(to_f32(multiply(zero_i32(), quants(c, m, 320), load64(q, at + 320))), pair(s, 5), odd)
            even = fma(to_f32(multiply(zero_i32(), quants(c, m, 384), load64(q, at + 384))), pair(s, 6), even)
            odd = fma(to_f32(multiply(zero_i32(), quants(c, m, 448), load64(q, at + 448))), pair(s, 7), odd)
        return total(even + odd + rest)

    return dot


def _dot_16(chunk_bytes, multiply, quants, scales, mins, has_min, offset):
    def dot(row_address, x, n, ahead):
        """A chunk is 4 products of 64 bytes, each into 16 lanes, 4 lanes to a group."""
        p = (n + CHUNK - 1) // CHUNK * CHUNK
        q, d, sums = i8(x), f32(x + p), i32(x + p + p // 4)
        even, odd, rest = zero(), zero(), zero()
        for at in range(0, n, 256):
            start = (at >> 8) * chunk_bytes
            c = u8(row_address + start)
            for line in range(0, chunk_bytes, 64):
                prefetch(ahead + start + line)
            xd = doubled(d, at >> 5)
            s = scales(c, 256) * xd
            if has_min:
                rest = fma(mins(c, 256) * xd, to_f32(load_i32(sums, at >> 4)), rest)
            if offset:
                rest = fma(s * splat(-offset), to_f32(load_i32(sums, at >> 4)), rest)
            even = fma(to_f32(multiply(zero_i32(), quants(c, 256, 0), load64(q, at))), four(s, 0), even)
            odd = fma(to_f32(multiply(zero_i32(), quants(c, 256, 64), load64(q, at + 64))), four(s, 1), odd)
            even = fma(to_f32(multiply(zero_i32(), quants(c, 256, 128), load64(q, at + 128))), four(s, 2), even)
            odd = fma(to_f32(multiply(zero_i32(), quants(c, 256, 192), load64(q, at + 192))), four(s, 3), odd)
        return total(even + odd + rest)

    return dot


def _axpy(group, chunk_bytes, quants, scales, mins, has_min, offset):
    chunk = 16 * group
    second, third, fourth = (1, 2, 3) if group == 16 else (0, 1, 1)  # groups of 64 weights' later quarters

    def axpy(row_address, n, begin, end, a, y_address):
        y = f32(y_address)
        s, m = stack_f32(16), stack_f32(16)
        for start in range(begin // chunk * chunk, end, chunk):
            c, size = u8(row_address + start // chunk * chunk_bytes), min(n - start, chunk)
            store_f32(s, 0, scales(c, size) * splat(a))
            if has_min:
                store_f32(m, 0, mins(c, size) * splat(a))
            for i in range(max(start, begin), min(start + chunk, end), 64):
                q = quants(c, size, i - start) - offset
                g = (i - start) // group
                y0 = fma(quarter(q, 0), splat(s[g]), load_f32(y, i))
                y1 = fma(quarter(q, 1), splat(s[g + second]), load_f32(y, i + 16))
                y2 = fma(quarter(q, 2), splat(s[g + third]), load_f32(y, i + 32))
                y3 = fma(quarter(q, 3), splat(s[g + fourth]), load_f32(y, i + 48))
                if has_min:
                    y0, y1 = y0 + splat(m[g]), y1 + splat(m[g + second])
                    y2, y3 = y2 + splat(m[g + third]), y3 + splat(m[g + fourth])
                store_f32(y, i, y0)
                store_f32(y, i + 16, y1)
                store_f32(y, i + 32, y2)
                store_f32(y, i + 48, y3)

    return axpy


def _axpy4(group, chunk_bytes, quants, scales, mins, has_min, offset):
    """Four rows at a time: a sum is loaded and stored once for the four, which is what a single row's time goes to."""
    chunk = 16 * group
    second, third, fourth = (1, 2, 3) if group == 16 else (0, 1, 1)

    @helper
    def add(c, size, i, s, m, g, y0, y1, y2, y3):
        q = quants(c, size, i) - offset
        y0, y1 = fma(quarter(q, 0), splat(s[g]), y0), fma(quarter(q, 1), splat(s[g + second]), y1)
        y2, y3 = fma(quarter(q, 2), splat(s[g + third]), y2), fma(quarter(q, 3), splat(s[g + fourth]), y3)
        if has_min:
            y0, y1 = y0 + splat(m[g]), y1 + splat(m[g + second])
            y2, y3 = y2 + splat(m[g + third]), y3 + splat(m[g + fourth])
        return y0, y1, y2, y3

    def axpy4(rows_address, n, a_address, y_address):
        rows, a, y = i64(rows_address), f32(a_address), f32(y_address)
        s, m = stack_f32(64), stack_f32(64)
        for start in range(0, n, chunk):
            at, size = start // chunk * chunk_bytes, min(n - start, chunk)
            c0, c1, c2, c3 = u8(rows[0] + at), u8(rows[1] + at), u8(rows[2] + at), u8(rows[3] + at)
            store_f32(s, 0, scales(c0, size) * splat(a[0]))
            store_f32(s, 16, scales(c1, size) * splat(a[1]))
            store_f32(s, 32, scales(c2, size) * splat(a[2]))
            store_f32(s, 48, scales(c3, size) * splat(a[3]))
            if has_min:
                store_f32(m, 0, mins(c0, size) * splat(a[0]))
                store_f32(m, 16, mins(c1, size) * splat(a[1]))
                store_f32(m, 32, mins(c2, size) * splat(a[2]))
                store_f32(m, 48, mins(c3, size) * splat(a[3]))
            for i in range(0, size, 64):
                g, out, ahead = i // group, start + i, at + i * chunk_bytes // chunk
                prefetch(rows[4] + ahead)
                prefetch(rows[5] + ahead)
                prefetch(rows[6] + ahead)
                prefetch(rows[7] + ahead)
                y0, y1 = load_f32(y, out), load_f32(y, out + 16)
                y2, y3 = load_f32(y, out + 32), load_f32(y, out + 48)
                y0, y1, y2, y3 = add(c0, size, i, s, m, g, y0, y1, y2, y3)
                y0, y1, y2, y3 = add(c1, size, i, s, m, g + 16, y0, y1, y2, y3)
                y0, y1, y2, y3 = add(c2, size, i, s, m, g + 32, y0, y1, y2, y3)
                y0, y1, y2, y3 = add(c3, size, i, s, m, g + 48, y0, y1, y2, y3)
                store_f32(y, out, y0)
                store_f32(y, out + 16, y1)
                store_f32(y, out + 32, y2)
                store_f32(y, out + 48, y3)

    return axpy4


def _unpack(group, chunk_bytes, quants, scales, mins, has_min, offset):
    chunk = 16 * group

    def unpack(row_address, n, begin, end, q_address, scales_address, mins_address):
        q, s_out, m_out = i8(q_address), f32(scales_address), f32(mins_address)
        s, m = stack_f32(16), stack_f32(16)
        for start in range(begin // chunk * chunk, end, chunk):
            c, size = u8(row_address + start // chunk * chunk_bytes), min(n - start, chunk)
            first, last = max(start, begin), min(start + chunk, end)
            for i in range(first, last, 64):
                store64(q, i - begin, quants(c, size, i - start) - offset)
            store_f32(s, 0, scales(c, size))
            if has_min:
                store_f32(m, 0, mins(c, size))
            for g in range((first - start) // group, (last - start) // group):
                s_out[(start - begin) // group + g] = s[g]
                if has_min:
                    m_out[(start - begin) // group + g] = m[g]

    return unpack
