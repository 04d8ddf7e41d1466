"""GGUF's k-quants: superblocks of 256 weights, in groups of 16 or 32.  Source: ggml-common.h, ggml-quants.c.

Repacked chunks of one superblock (groups of 16) or two (groups of 32), in this order:
  bits 0-3 (Q4_K, Q5_K, Q6_K)   per 64 weights 32 bytes: the first 32 in the low nibbles, the second 32 in the high ones
  bits 0-1 (Q2_K, Q3_K)         64 bytes: weight 64c + j in bits 2c and 2c + 1 of byte j
  bits 4-5 (Q6_K)               the same
  bit 2 (Q3_K)                  per 64 weights 8 bytes, lowest bit first
  bit 4 (Q5_K)                  64 bytes: weight 64c + j in bit c of byte j
  scales, minima                a byte each (Q2_K: nibbles of one byte; Q3_K, Q6_K: signed)
  d, dmin                       float16; a group's scale is d * its byte, its minimum -dmin * its byte
"""

from collections.abc import Callable

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.formats.blocks import make_format
from powerinfer_cli.kernels.formats.format import Format
from powerinfer_cli.kernels.formats.legacy import five_bits, nibbles
from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import (
    bits64,
    first_f16,
    join,
    load16,
    load32,
    load64,
    load_i8,
    load_u8,
    pair,
    splat,
    splat_f16,
    store16,
    store32,
    store64,
    store_bits,
    unsigned_f32,
    zero64,
)

__all__ = ["FORMATS", "two_d"]

# --- reading repacked chunks: quants, scales and minima for `blocks.make_format` -----------------------------------


@helper
def _two_bits(chunk, offset, at):
    """64 of the 256 two-bit fields at a byte offset."""
    return (load64(chunk, offset) >> (at >> 5)) & 3


@helper
def _q2_quants(chunk, m, at):
    return _two_bits(chunk, 0, at)


@helper
def _q3_quants(chunk, m, at):
    return _two_bits(chunk, 0, at) | bits64(chunk, 64 + (at >> 3), 4)


@helper
def _q6_quants(chunk, m, at):
    return nibbles(chunk, m, at) | (_two_bits(chunk, 128, at) << 4)


@helper
def _q2_scales(chunk, m):
    return unsigned_f32(load16(chunk, 64) & 15) * splat_f16(chunk, 80)


@helper
def _q2_mins(chunk, m):
    return unsigned_f32(load16(chunk, 64) >> 4) * (splat_f16(chunk, 82) * splat(-1))


def _scales_16(start):
    """Scales from byte `start` on: signed bytes for groups of 16, then d."""

    @helper
    def scales(chunk, m):
        return load_i8(chunk, start) * splat_f16(chunk, start + 16)

    return scales


@helper
def two_d(chunk, start, m):
    """d of the chunk's superblocks at a byte offset, 8 times each; 0 for a second one that is not there."""
    return pair(first_f16(chunk, start, m >> 8), 0)


def _scales_32(extra):
    """Behind nibbles and so many bytes, for groups of 32: bytes of scales, bytes of minima, d, dmin."""

    @helper
    def scales(chunk, m):
        start = (m >> 1) + extra
        return load_u8(chunk, start) * two_d(chunk, start + (m >> 4), m)

    @helper
    def mins(chunk, m):
        start = (m >> 1) + extra
        return load_u8(chunk, start + (m >> 5)) * (two_d(chunk, start + (m >> 4) + (m >> 7), m) * splat(-1))

    return scales, mins


# --- repacking: chunks of GGUF blocks ----------------------------------------------------------------------------


@helper
def _copy_pair(source, s, target, t):
    """Two bytes: a float16."""
    target[t] = source[s]
    target[t + 1] = source[s + 1]


@helper
def _fields_of_64(source, s, half, k):
    """GGUF's two-bit fields of 64 weights: 128 weights share 32 bytes, 32 weights a pair of bits."""
    packed = load32(source, s + half * 32)
    return join((packed >> (4 * k)) & 3, (packed >> (4 * k + 2)) & 3)


@helper
def _repack_two_bits(source, s, target, t):
    """64 bytes of GGUF's two-bit fields."""
    first = _fields_of_64(source, s, 0, 0) | (_fields_of_64(source, s, 0, 1) << 2)
    second = _fields_of_64(source, s, 1, 0) | (_fields_of_64(source, s, 1, 1) << 2)
    store64(target, t, first | (second << 4))


@helper
def _repack_bits(source, s, target, t):
    """32 bytes of single bits: GGUF has those of weight 32j + i in bit j of byte i."""
    packed = load32(source, s)
    for c in range(4):
        both = join((packed >> (2 * c)) & 1, (packed >> (2 * c + 1)) & 1)
        store_bits(target, t + 8 * c, both)


@helper
def _even_bits(packed):
    """Bits 0, 2, 4 and 6 of each byte next to each other."""
    packed = packed & 0x55
    packed = (packed | (packed >> 1)) & 0x33
    return (packed | (packed >> 2)) & 0x0F


@helper
def _repack_scales_32(source, s, target, scales, b, m):
    """Superblock b of Q4_K or Q5_K: d, dmin, 8 scales and 8 minima of six bits, in 16 bytes."""
    mins, ds = scales + (m >> 5), scales + (m >> 4)
    for j in range(4):
        x, y, z = source[s + 4 + j], source[s + 8 + j], source[s + 12 + j]
        target[scales + b * 8 + j] = x & 63
        target[mins + b * 8 + j] = y & 63
        target[scales + b * 8 + 4 + j] = (z & 15) | ((x >> 6) << 4)
        target[mins + b * 8 + 4 + j] = (z >> 4) | ((y >> 6) << 4)
    _copy_pair(source, s, target, ds + b * 2)
    _copy_pair(source, s + 2, target, ds + (m >> 7) + b * 2)


@helper
def _repack_q2(source, target, m):
    """Blocks of 84 bytes: scales [16], quants [64], d, dmin."""
    _repack_two_bits(source, 16, target, 0)
    store16(target, 64, load16(source, 0))
    _copy_pair(source, 80, target, 80)
    _copy_pair(source, 82, target, 82)


@helper
def _repack_q3(source, target, m):
    """Blocks of 110 bytes: third bits [32], quants [64], scales of six bits less 32 [12], d."""
    _repack_two_bits(source, 32, target, 0)
    _repack_bits(source, 0, target, 64)
    for i in range(16):
        low = source[96 + i % 8] >> (i // 8 * 4) & 15
        high = source[104 + i % 4] >> (i // 4 * 2) & 3
        target[96 + i] = (low | (high << 4)) - 32
    _copy_pair(source, 108, target, 112)


@helper
def _repack_q4(source, target, m):
    """Blocks of 144 bytes: d, dmin, scales and minima [12], nibbles [128], which stay as they are."""
    scales = m >> 1
    for b in range(m >> 8):
        s = b * 144
        store64(target, b * 128, load64(source, s + 16))
        store64(target, b * 128 + 64, load64(source, s + 80))
        _repack_scales_32(source, s, target, scales, b, m)


@helper
def _repack_q5(source, target, m):
    """Blocks of 176 bytes: d, dmin, scales and minima [12], fifth bits [32], nibbles [128]."""
    scales = (m >> 1) + 64
    fifth = zero64()
    for b in range(m >> 8):
        s = b * 176
        store64(target, b * 128, load64(source, s + 48))
        store64(target, b * 128 + 64, load64(source, s + 112))
        packed = load32(source, s + 16)
        fifth = fifth | (join(_even_bits(packed), _even_bits(packed >> 1)) << (4 * b))
        _repack_scales_32(source, s, target, scales, b, m)
    store64(target, m >> 1, fifth)


@helper
def _repack_q6(source, target, m):
    """Blocks of 210 bytes: nibbles [128], 64 bytes to 128 weights, two-bit fields [64], scales [16], d."""
    for h in range(2):
        first, second = load32(source, h * 64), load32(source, h * 64 + 32)
        store32(target, h * 64, (first & 15) | (second << 4))
        store32(target, h * 64 + 32, (first >> 4) | (second & 240))
    _repack_two_bits(source, 128, target, 128)
    store16(target, 192, load16(source, 192))
    _copy_pair(source, 208, target, 208)


def _bytes_of(superblock_bytes: int, extra: int = 0) -> Callable[[int], int]:
    def chunk_bytes(m: int) -> int:
        return m // 256 * superblock_bytes + extra if m else 0

    return chunk_bytes


FORMATS: tuple[Format, ...] = (
    make_format(GGMLType.Q2_K, 16, _bytes_of(84), _repack_q2, _q2_quants, _q2_scales, _q2_mins),
    make_format(GGMLType.Q3_K, 16, _bytes_of(114), _repack_q3, _q3_quants, _scales_16(96), offset=4),
    make_format(GGMLType.Q4_K, 32, _bytes_of(148), _repack_q4, nibbles, *_scales_32(0)),
    make_format(GGMLType.Q5_K, 32, _bytes_of(148, 64), _repack_q5, five_bits, *_scales_32(64)),
    make_format(GGMLType.Q6_K, 16, _bytes_of(210), _repack_q6, _q6_quants, _scales_16(192), offset=32),
)
