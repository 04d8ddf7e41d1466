"""The kernels of block formats, made from three small functions of each: how to unpack 64 quants, scales, minima."""

from typing import Any

from powerinfer_cli.kernels.formats.format import AXPY, CHUNK, DOT, UNPACK
from powerinfer_cli.kernels.jit import Kernel, helper, kernel
from powerinfer_cli.kernels.simd import (
    dot_signed,
    dot_unsigned,
    doubled,
    f32,
    fma,
    four,
    i8,
    i32,
    load64,
    load_f32,
    load_i32,
    pair,
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

__all__ = ["make_kernels"]

# Of a format: quants(row, n, at) -> 64 quants from weight `at`, a multiple of 64; scales(row, n, at) and
# mins(row, n, at) -> the 16 groups from weight `at`, a multiple of 256, as float32, and 0 behind the row's end.
Unpacker = Any


@helper
def _no_mins(row, n, at):
    return zero()


def make_kernels(
    name: str,
    group: int,
    quants: Unpacker,
    scales: Unpacker,
    mins: Unpacker = None,
    offset: int = 0,
    signed: bool = False,
) -> tuple[Kernel, Kernel, Kernel]:
    """dot, axpy and unpack of a format whose weights are scale * (q - offset) + min.

    `signed`: q is within -128..127 and the offset 0; else q is within 0..127.
    """
    has_min = mins is not None
    mins = mins or _no_mins
    multiply = dot_signed if signed else dot_unsigned
    dot = (_dot_32 if group == 32 else _dot_16)(multiply, quants, scales, mins, has_min, offset)
    axpy = (_axpy_32 if group == 32 else _axpy_16)(quants, scales, mins, has_min, offset)
    unpack = _unpack(group, quants, scales, mins, has_min, offset)
    return (
        kernel(DOT, f"dot_{name}")(dot),
        kernel(AXPY, f"axpy_{name}")(axpy),
        kernel(UNPACK, f"unpack_{name}")(unpack),
    )


def _dot_32(multiply: Any, quants: Any, scales: Any, mins: Any, has_min: bool, offset: int) -> Any:
    def dot(row_address, x, n):
        """512 weights at a time: 8 products of 64 bytes, each into 16 lanes, 8 lanes to a group."""
        row, p = u8(row_address), (n + CHUNK - 1) // CHUNK * CHUNK
        q, d, sums = i8(x), f32(x + p), i32(x + p + p // 8)
        even, odd, rest = zero(), zero(), zero()
        for at in range(0, n, 512):
            xd = load_f32(d, at // 32)
            s = scales(row, n, at) * xd
            if has_min:
                rest = fma(mins(row, n, at) * xd, to_f32(load_i32(sums, at // 32)), rest)
            if offset:
                rest = fma(s * splat(-offset), to_f32(load_i32(sums, at // 32)), rest)
            even = fma(to_f32(multiply(zero_i32(), quants(row, n, at), load64(q, at))), pair(s, 0), even)
            odd = fma(to_f32(multiply(zero_i32(), quants(row, n, at + 64), load64(q, at + 64))), pair(s, 1), odd)
            even = fma(to_f32(multiply(zero_i32(), quants(row, n, at + 128), load64(q, at + 128))), pair(s, 2), even)
            odd = fma(to_f32(multiply(zero_i32(), quants(row, n, at + 192), load64(q, at + 192))), pair(s, 3), odd)
            even = fma(to_f32(multiply(zero_i32(), quants(row, n, at + 256), load64(q, at + 256))), pair(s, 4), even)
            odd = fma(to_f32(multiply(zero_i32(), quants(row, n, at + 320), load64(q, at + 320))), pair(s, 5), odd)
            even = fma(to_f32(multiply(zero_i32(), quants(row, n, at + 384), load64(q, at + 384))), pair(s, 6), even)
            odd = fma(to_f32(multiply(zero_i32(), quants(row, n, at + 448), load64(q, at + 448))), pair(s, 7), odd)
        return total(even + odd + rest)

    return dot


def _dot_16(multiply: Any, quants: Any, scales: Any, mins: Any, has_min: bool, offset: int) -> Any:
    def dot(row_address, x, n):
        """256 weights at a time: 4 products of 64 bytes, each into 16 lanes, 4 lanes to a group."""
        row, p = u8(row_address), (n + CHUNK - 1) // CHUNK * CHUNK
        q, d, sums = i8(x), f32(x + p), i32(x + p + p // 4)
        even, odd, rest = zero(), zero(), zero()
        for at in range(0, n, 256):
            xd = doubled(d, at // 32)
            s = scales(row, n, at) * xd
            if has_min:
                rest = fma(mins(row, n, at) * xd, to_f32(load_i32(sums, at // 16)), rest)
            if offset:
                rest = fma(s * splat(-offset), to_f32(load_i32(sums, at // 16)), rest)
            even = fma(to_f32(multiply(zero_i32(), quants(row, n, at), load64(q, at))), four(s, 0), even)
            odd = fma(to_f32(multiply(zero_i32(), quants(row, n, at + 64), load64(q, at + 64))), four(s, 1), odd)
            even = fma(to_f32(multiply(zero_i32(), quants(row, n, at + 128), load64(q, at + 128))), four(s, 2), even)
            odd = fma(to_f32(multiply(zero_i32(), quants(row, n, at + 192), load64(q, at + 192))), four(s, 3), odd)
        return total(even + odd + rest)

    return dot


def _axpy_32(quants: Any, scales: Any, mins: Any, has_min: bool, offset: int) -> Any:
    def axpy(row_address, n, begin, end, a, y_address):
        row, y = u8(row_address), f32(y_address)
        s, m = stack_f32(16), stack_f32(16)
        for at in range(begin, end, 512):
            store_f32(s, 0, scales(row, n, at) * splat(a))
            if has_min:
                store_f32(m, 0, mins(row, n, at) * splat(a))
            for c in range(at, min(at + 512, end), 64):
                q = quants(row, n, c) - offset
                g = (c - at) // 32
                low, high = splat(s[g]), splat(s[g + 1])
                y0, y1 = fma(quarter(q, 0), low, load_f32(y, c)), fma(quarter(q, 1), low, load_f32(y, c + 16))
                y2, y3 = fma(quarter(q, 2), high, load_f32(y, c + 32)), fma(quarter(q, 3), high, load_f32(y, c + 48))
                if has_min:
                    y0, y1, y2, y3 = y0 + splat(m[g]), y1 + splat(m[g]), y2 + splat(m[g + 1]), y3 + splat(m[g + 1])
                store_f32(y, c, y0)
                store_f32(y, c + 16, y1)
                store_f32(y, c + 32, y2)
                store_f32(y, c + 48, y3)

    return axpy


def _axpy_16(quants: Any, scales: Any, mins: Any, has_min: bool, offset: int) -> Any:
    def axpy(row_address, n, begin, end, a, y_address):
        row, y = u8(row_address), f32(y_address)
        s, m = stack_f32(16), stack_f32(16)
        for at in range(begin, end, 256):
            store_f32(s, 0, scales(row, n, at) * splat(a))
            if has_min:
                store_f32(m, 0, mins(row, n, at) * splat(a))
            for c in range(at, min(at + 256, end), 64):
                q = quants(row, n, c) - offset
                g = (c - at) // 16
                y0 = fma(quarter(q, 0), splat(s[g]), load_f32(y, c))
                y1 = fma(quarter(q, 1), splat(s[g + 1]), load_f32(y, c + 16))
                y2 = fma(quarter(q, 2), splat(s[g + 2]), load_f32(y, c + 32))
                y3 = fma(quarter(q, 3), splat(s[g + 3]), load_f32(y, c + 48))
                if has_min:
                    y0, y1, y2, y3 = y0 + splat(m[g]), y1 + splat(m[g + 1]), y2 + splat(m[g + 2]), y3 + splat(m[g + 3])
                store_f32(y, c, y0)
                store_f32(y, c + 16, y1)
                store_f32(y, c + 32, y2)
                store_f32(y, c + 48, y3)

    return axpy


def _unpack(group: int, quants: Any, scales: Any, mins: Any, has_min: bool, offset: int) -> Any:
    step = 16 * group

    def unpack(row_address, n, begin, end, q_address, scales_address, mins_address):
        row, q, s, m = u8(row_address), i8(q_address), f32(scales_address), f32(mins_address)
        for at in range(begin, end, 64):
            store64(q, at - begin, quants(row, n, at) - offset)
        for at in range(begin, end, step):
            store_f32(s, (at - begin) // group, scales(row, n, at))
            if has_min:
                store_f32(m, (at - begin) // group, mins(row, n, at))

    return unpack
