"""F32, F16 and BF16: rows as they are in the file, of any length. Nothing behind a row's end is read."""

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.formats.floats_few import floats_dot_few, floats_dot_some, tail_of
from powerinfer_cli.kernels.formats.format import AXPY, AXPY4, DOT, DOT_FEW, DOT_SOME, UNPACK, Format
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.simd import (
    f32,
    float_of,
    fma,
    half,
    i64,
    load_bf16,
    load_f16,
    load_f32,
    plus,
    prefetch,
    splat,
    store_f32,
    total,
    u16,
    zero,
)

__all__ = ["FORMATS"]


@helper
def _one_f32(row, i):
    return row[i]


@helper
def _one_f16(row, i):
    return half(row, i)


@helper
def _one_bf16(row, i):
    return float_of(row[i] << 16)


def _dot(size, pointer, load, one):
    rest = tail_of(one)

    def dot(row_address, x_address, n, ahead):
        row, x = pointer(row_address), f32(x_address)
        a, b, c, d = zero(), zero(), zero(), zero()
        i = 0
        while i + 64 <= n:
            for line in range(i * size, (i + 64) * size, 64):
                prefetch(ahead + line)
            a = fma(load(row, i), load_f32(x, i), a)
            b = fma(load(row, i + 16), load_f32(x, i + 16), b)
            c = fma(load(row, i + 32), load_f32(x, i + 32), c)
            d = fma(load(row, i + 48), load_f32(x, i + 48), d)
            i += 64
        while i + 16 <= n:
            a = fma(load(row, i), load_f32(x, i), a)
            i += 16
        return rest(row, x, i, n, total(plus(plus(a, b), plus(c, d))))

    return dot


def _axpy(pointer, load, one):
    def axpy(row_address, n, a, y_address):
        row, y = pointer(row_address), f32(y_address)
        i = 0
        while i + 16 <= n:
            store_f32(y, i, fma(load(row, i), splat(a), load_f32(y, i)))
            i += 16
        while i < n:
            y[i] += a * one(row, i)
            i += 1

    return axpy


def _axpy4(size, pointer, load, one):
    def axpy4(rows_address, n, a_address, y_address):
        rows, a, y = i64(rows_address), f32(a_address), f32(y_address)
        r0, r1, r2, r3 = pointer(rows[0]), pointer(rows[1]), pointer(rows[2]), pointer(rows[3])
        a0, a1, a2, a3 = splat(a[0]), splat(a[1]), splat(a[2]), splat(a[3])
        i = 0
        while i + 16 <= n:
            if i * size % 64 == 0:
                prefetch(rows[4] + i * size)
                prefetch(rows[5] + i * size)
                prefetch(rows[6] + i * size)
                prefetch(rows[7] + i * size)
            value = fma(load(r1, i), a1, fma(load(r0, i), a0, load_f32(y, i)))
            store_f32(y, i, fma(load(r3, i), a3, fma(load(r2, i), a2, value)))
            i += 16
        while i < n:
            y[i] += a[0] * one(r0, i)
            y[i] += a[1] * one(r1, i)
            y[i] += a[2] * one(r2, i)
            y[i] += a[3] * one(r3, i)
            i += 1

    return axpy4


def _unpack(pointer, load, one):
    def unpack(row_address, n, begin, end, target_address, scales_address, mins_address):
        row, target = pointer(row_address), f32(target_address)
        i = begin
        while i + 16 <= end:
            store_f32(target, i - begin, load(row, i))
            i += 16
        while i < end:
            target[i - begin] = one(row, i)
            i += 1

    return unpack


def _format(kind, size: int, pointer, load, one):
    def row_bytes(n: int) -> int:
        return n * size

    name = kind.name.lower()
    return Format(
        kind,
        0,
        False,
        size * 8,
        row_bytes,
        None,
        kernel(DOT, f"dot_{name}")(_dot(size, pointer, load, one)),
        kernel(DOT_FEW, f"dot_few_{name}")(floats_dot_few(size, pointer, load, one)),
        kernel(DOT_SOME, f"dot_some_{name}")(floats_dot_some(size, pointer, load, one)),
        None,
        kernel(AXPY, f"axpy_{name}")(_axpy(pointer, load, one)),
        kernel(AXPY4, f"axpy4_{name}")(_axpy4(size, pointer, load, one)),
        kernel(UNPACK, f"unpack_{name}")(_unpack(pointer, load, one)),
    )


FORMATS: tuple[Format, ...] = (
    _format(GGMLType.F32, 4, f32, load_f32, _one_f32),
    _format(GGMLType.F16, 2, u16, load_f16, _one_f16),
    _format(GGMLType.BF16, 2, u16, load_bf16, _one_bf16),
)
