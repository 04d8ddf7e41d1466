"""GGUF's k-quants: superblocks of 256 weights, in groups of 16 or 32.  Source: ggml-common.h, ggml-quants.c.

Repacked rows: each of the following for all the row's superblocks before the next one begins.
  bits 0-3 (Q4_K, Q5_K, Q6_K)   per 64 weights 32 bytes: the first 32 in the low nibbles, the second 32 in the high ones
  bits 0-1 (Q2_K, Q3_K)         per 256 weights 64 bytes: weight 64c + j in bits 2c and 2c + 1 of byte j
  bits 4-5 (Q6_K)               the same
  the last bit (Q3_K, Q5_K)     per 64 weights 8 bytes, lowest bit first
  scales, minima                a byte each (Q2_K: nibbles of one byte; Q3_K, Q6_K: signed)
  d, dmin                       float16; a group's scale is d * its byte, its minimum -dmin * its byte
"""

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.formats.blocks import make_kernels
from powerinfer_cli.kernels.formats.format import REPACK, Format
from powerinfer_cli.kernels.formats.legacy import nibbles
from powerinfer_cli.kernels.jit import Kernel, helper, kernel
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
    u8,
    unsigned_f32,
)

__all__ = ["FORMATS", "two_d"]

# --- reading repacked rows: quants, scales and minima for `blocks.make_kernels` ------------------------------------


@helper
def _two_bits(row, offset, at):
    """64 two-bit fields of those that begin at a byte offset of the row."""
    return (load64(row, offset + at // 256 * 64) >> (at // 64 % 4 * 2)) & 3


@helper
def _q2_quants(row, n, at):
    return _two_bits(row, 0, at)


@helper
def _q3_quants(row, n, at):
    return _two_bits(row, 0, at) | bits64(row, n // 4 + at // 8, 4)


@helper
def _q5_quants(row, n, at):
    return nibbles(row, n, at) | bits64(row, n // 2 + at // 8, 16)


@helper
def _q6_quants(row, n, at):
    return nibbles(row, n, at) | (_two_bits(row, n // 2, at) << 4)


@helper
def two_d(row, offset, n, at):
    """d of two superblocks from weight `at`, 8 times each; 0 for one that the row does not have."""
    return pair(first_f16(row, offset + at // 256 * 2, n // 256 - at // 256), 0)


@helper
def _q2_scales(row, n, at):
    d = splat_f16(row, n // 4 + n // 16 + at // 128)
    return unsigned_f32(load16(row, n // 4 + at // 16) & 15) * d


@helper
def _q2_mins(row, n, at):
    d = splat_f16(row, n // 4 + n // 16 + n // 128 + at // 128)
    return unsigned_f32(load16(row, n // 4 + at // 16) >> 4) * (d * splat(-1))


def _scales_16(quant_eighths):
    """Scales behind quants of so many eighths of a byte per weight: signed bytes for groups of 16, then d."""

    @helper
    def scales(row, n, at):
        start = n // 8 * quant_eighths
        return load_i8(row, start + at // 16) * splat_f16(row, start + n // 16 + at // 128)

    return scales


def _scales_32(quant_eighths):
    """The same for groups of 32: bytes of scales, bytes of minima, d, dmin."""

    @helper
    def scales(row, n, at):
        start = n // 8 * quant_eighths
        return load_u8(row, start + at // 32) * two_d(row, start + n // 16, n, at)

    @helper
    def mins(row, n, at):
        start = n // 8 * quant_eighths
        d = two_d(row, start + n // 16 + n // 128, n, at)
        return load_u8(row, start + n // 32 + at // 32) * (d * splat(-1))

    return scales, mins


# --- repacking: one superblock after the other ---------------------------------------------------------------------


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
def _repack_six_bits(source, s, target, scales, mins):
    """Q4_K's and Q5_K's 8 scales and 8 minima of six bits, in 12 bytes."""
    for j in range(4):
        a, b, c = source[s + j], source[s + 4 + j], source[s + 8 + j]
        target[scales + j] = a & 63
        target[mins + j] = b & 63
        target[scales + 4 + j] = (c & 15) | ((a >> 6) << 4)
        target[mins + 4 + j] = (c >> 4) | ((b >> 6) << 4)


def _repack_q2(source_address, target_address, n):
    """Blocks of 84 bytes: scales [16], quants [64], d, dmin."""
    source, target = u8(source_address), u8(target_address)
    for b in range(n // 256):
        s = b * 84
        _repack_two_bits(source, s + 16, target, b * 64)
        store16(target, n // 4 + b * 16, load16(source, s))
        _copy_pair(source, s + 80, target, n // 4 + n // 16 + b * 2)
        _copy_pair(source, s + 82, target, n // 4 + n // 16 + n // 128 + b * 2)


def _repack_q3(source_address, target_address, n):
    """Blocks of 110 bytes: third bits [32], quants [64], scales of six bits less 32 [12], d."""
    source, target = u8(source_address), u8(target_address)
    for b in range(n // 256):
        s = b * 110
        _repack_two_bits(source, s + 32, target, b * 64)
        _repack_bits(source, s, target, n // 4 + b * 32)
        scales = n // 8 * 3 + b * 16
        for i in range(16):
            low = source[s + 96 + i % 8] >> (i // 8 * 4) & 15
            high = source[s + 104 + i % 4] >> (i // 4 * 2) & 3
            target[scales + i] = (low | (high << 4)) - 32
        _copy_pair(source, s + 108, target, n // 8 * 3 + n // 16 + b * 2)


def _repack_q4(source_address, target_address, n):
    """Blocks of 144 bytes: d, dmin, scales and minima [12], nibbles [128], which stay as they are."""
    source, target = u8(source_address), u8(target_address)
    scales = n // 2
    for b in range(n // 256):
        s = b * 144
        store64(target, b * 128, load64(source, s + 16))
        store64(target, b * 128 + 64, load64(source, s + 80))
        _repack_six_bits(source, s + 4, target, scales + b * 8, scales + n // 32 + b * 8)
        _copy_pair(source, s, target, scales + n // 16 + b * 2)
        _copy_pair(source, s + 2, target, scales + n // 16 + n // 128 + b * 2)


def _repack_q5(source_address, target_address, n):
    """Blocks of 176 bytes: d, dmin, scales and minima [12], fifth bits [32], nibbles [128]."""
    source, target = u8(source_address), u8(target_address)
    scales = n // 8 * 5
    for b in range(n // 256):
        s = b * 176
        store64(target, b * 128, load64(source, s + 48))
        store64(target, b * 128 + 64, load64(source, s + 112))
        _repack_bits(source, s + 16, target, n // 2 + b * 32)
        _repack_six_bits(source, s + 4, target, scales + b * 8, scales + n // 32 + b * 8)
        _copy_pair(source, s, target, scales + n // 16 + b * 2)
        _copy_pair(source, s + 2, target, scales + n // 16 + n // 128 + b * 2)


def _repack_q6(source_address, target_address, n):
    """Blocks of 210 bytes: nibbles [128], 64 bytes to 128 weights, two-bit fields [64], scales [16], d."""
    source, target = u8(source_address), u8(target_address)
    for b in range(n // 256):
        s = b * 210
        for h in range(2):
            first, second = load32(source, s + h * 64), load32(source, s + h * 64 + 32)
            store32(target, b * 128 + h * 64, (first & 15) | (second << 4))
            store32(target, b * 128 + h * 64 + 32, (first >> 4) | (second & 240))
        _repack_two_bits(source, s + 128, target, n // 2 + b * 64)
        scales = n // 4 * 3
        store16(target, scales + b * 16, load16(source, s + 192))
        _copy_pair(source, s + 208, target, scales + n // 16 + b * 2)


def _format(kind, group, block_bytes, repack, quants, scales, mins=None, offset=0):
    """`block_bytes`: of a repacked superblock."""
    name = kind.name.lower()
    dot, axpy, unpack = make_kernels(name, group, quants, scales, mins, offset=offset)
    repack_kernel: Kernel = kernel(REPACK, f"repack_{name}")(repack)
    return Format(kind, group, mins is not None, lambda n: n // 256 * block_bytes, repack_kernel, dot, axpy, unpack)


FORMATS: tuple[Format, ...] = (
    _format(GGMLType.Q2_K, 16, 84, _repack_q2, _q2_quants, _q2_scales, _q2_mins),
    _format(GGMLType.Q3_K, 16, 114, _repack_q3, _q3_quants, _scales_16(3), offset=4),
    _format(GGMLType.Q4_K, 32, 148, _repack_q4, nibbles, *_scales_32(4)),
    _format(GGMLType.Q5_K, 32, 180, _repack_q5, _q5_quants, *_scales_32(5)),
    _format(GGMLType.Q6_K, 16, 210, _repack_q6, _q6_quants, _scales_16(6), offset=32),
)
