"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 as ggml writes them, to the bit: each step rounded to float32.

What is stored: `quantize_row_*_ref` of `ggml-quants.c`. The numbers come as they lie in a file, float32, float16 or
bfloat16, so that nothing is written but the blocks.
"""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.cpu.encoding.legacy_weighted import encode_weighted
from powerinfer_cli.kernels.jit import exact_helper, kernel, types
from powerinfer_cli.kernels.simd import (
    absolute,
    f32,
    largest,
    load_bf16,
    load_f16,
    load_f32,
    maximum,
    minimum,
    stack_f32,
    store_f32,
    store_half,
    u8,
    u16,
    zero,
)

__all__ = ["LEGACY", "encode_floats", "encode_legacy"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

LEGACY = (GGMLType.Q4_0, GGMLType.Q4_1, GGMLType.Q5_0, GGMLType.Q5_1, GGMLType.Q8_0)
_BITS = {GGMLType.Q4_0: 4, GGMLType.Q4_1: 4, GGMLType.Q5_0: 5, GGMLType.Q5_1: 5, GGMLType.Q8_0: 8}
_SOURCES = {GGMLType.F32: 0, GGMLType.F16: 1, GGMLType.BF16: 2}


def encode_legacy(values: Floats, kind: GGMLType, importance: Floats | None = None) -> Bytes:
    """Finite numbers [n_rows, n_cols] to bytes [n_rows, row_bytes]; importance of columns: [n_cols]. Q8_0 has no use
    for it.
    """
    if importance is None or kind is GGMLType.Q8_0:
        return encode_floats(np.ascontiguousarray(values, np.float32).view(np.uint8), GGMLType.F32, kind)
    n_rows, n_cols = values.shape
    out = _room(n_rows, n_cols, kind)
    values, importance = np.ascontiguousarray(values, np.float32), np.ascontiguousarray(importance, np.float32)
    addresses = (one.ctypes.data for one in (values, importance, out))
    encode_weighted.call(*addresses, n_rows, n_cols, _BITS[kind], _has_minimum(kind))
    return out


def encode_floats(stored: Bytes, source: GGMLType, kind: GGMLType) -> Bytes:
    """Finite numbers as bytes [n_rows, row_bytes] of F32, F16 or BF16 to bytes of another type."""
    n_rows, n_cols = len(stored), stored.shape[1] // BLOCK[source][1]
    out, stored = _room(n_rows, n_cols, kind), np.ascontiguousarray(stored)
    n_blocks = n_rows * n_cols // 32
    encode_blocks.call(stored.ctypes.data, out.ctypes.data, n_blocks, _SOURCES[source], _BITS[kind], _has_minimum(kind))
    return out


def _room(n_rows: int, n_cols: int, kind: GGMLType) -> Bytes:
    size, n_bytes = BLOCK[kind]
    return np.empty((n_rows, n_cols // size * n_bytes), np.uint8)


def _has_minimum(kind: GGMLType) -> bool:
    return kind in (GGMLType.Q4_1, GGMLType.Q5_1)


@exact_helper
def _load(x_at, source, block, i):
    if source == 0:
        return load_f32(f32(x_at), block * 32 + i)
    if source == 1:
        return load_f16(u16(x_at), block * 32 + i)
    return load_bf16(u16(x_at), block * 32 + i)


@exact_helper
def _peak(x, low, high):
    """The number of the largest size; of two the first."""
    least, most = -largest(zero() - minimum(low, high)), largest(maximum(low, high))
    peak = most if most > -least else least
    if most == -least:
        i = 0
        while i < 31 and abs(x[i]) != most:
            i += 1
        peak = x[i] if most > np.float32(0.0) else np.float32(0.0)  # of zeros of any sign
    return peak


@exact_helper
def _least(x, low, high):
    """The least number; of zeros the first, whose sign counts."""
    least = -largest(zero() - minimum(low, high))
    if least == np.float32(0.0):
        i = 0
        while i < 31 and x[i] != np.float32(0.0):
            i += 1
        least = x[i]
    return least


@exact_helper
def _inverse(d):
    return np.float32(1.0) / d if d != np.float32(0.0) else np.float32(0.0)


@exact_helper
def _store_bytes(x, d, out, at):
    """To the nearest, halves away from 0; in float64 no half is made that was none."""
    inverse = _inverse(d)
    for i in range(32):
        number = np.float64(x[i] * inverse)
        out[at + i] = np.uint8(np.int32(number + 0.5 if number >= 0.0 else number - 0.5) & 255)


@exact_helper
def _store_nibbles(x, low, inverse, offset, top, out, at, bits):
    """From 0 on: cut off behind an offset of a half. Fifth bits come first."""
    fifths = np.int64(0)
    for i in range(16):
        first = min(np.int32((x[i] - low) * inverse + offset), top)
        second = min(np.int32((x[i + 16] - low) * inverse + offset), top)
        out[at + i] = np.uint8((first & 15) | (second & 15) << 4)
    if bits == 5:
        for i in range(32):
            fifths |= np.int64(min(np.int32((x[i] - low) * inverse + offset), top) >> 4) << i
        for part in range(4):
            out[at - 4 + part] = np.uint8(fifths >> (8 * part) & 255)


@kernel(types.void(*[types.int64] * 6), exact=True)
def encode_blocks(x_at, out_at, n_blocks, source, bits, has_minimum):
    """Blocks of 32 numbers of 4, 5 or 8 bits. source: 0 float32, 1 float16, 2 bfloat16."""
    x, out = stack_f32(32), u8(out_at)
    head = 4 if has_minimum else 2
    size = head + (32 if bits == 8 else 20 if bits == 5 else 16)
    behind = head + (4 if bits == 5 else 0)
    top, half = np.int32((1 << bits) - 1), np.float32(1 << (bits - 1))
    for block in range(n_blocks):
        at, room = block * size, u16(out_at + block * size)
        low, high = _load(x_at, source, block, 0), _load(x_at, source, block, 16)
        store_f32(x, 0, low)
        store_f32(x, 16, high)
        if bits == 8:
            d = largest(maximum(absolute(low), absolute(high))) / np.float32(127.0)
            _store_bytes(x, d, out, at + head)
        elif has_minimum:
            least, most = _least(x, low, high), largest(maximum(low, high))
            d = (most - least) / np.float32(top) if most > least else np.float32(0.0)
            store_half(room, 1, least)
            _store_nibbles(x, least, _inverse(d), np.float32(0.5), top, out, at + behind, bits)
        else:
            d = _peak(x, low, high) / -half
            _store_nibbles(x, np.float32(0.0), _inverse(d), half + np.float32(0.5), top, out, at + behind, bits)
        store_half(room, 0, d)
