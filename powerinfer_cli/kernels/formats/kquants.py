"""GGUF's k-quants: superblocks of 256 weights, in groups of 16 or 32.  Source: ggml-common.h, ggml-quants.c.

Repacked chunks of one superblock (groups of 16) or two (groups of 32): quants (see `layouts`), then
  scales, minima   a byte each (Q2_K: nibbles of one byte; Q3_K, Q6_K: signed)
  d, dmin          float16; a group's scale is d * its byte, its minimum -dmin * its byte
"""

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.formats.blocks import make_format
from powerinfer_cli.kernels.formats.bundles import Tail
from powerinfer_cli.kernels.formats.format import Format
from powerinfer_cli.kernels.formats.layouts import FIVE, FOUR, SIX, THREE, TWO
from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import (
    load16,
    load32,
    load_i8,
    load_u8,
    splat,
    splat_f16,
    store16,
    store32,
    store64,
    two_f16,
    unsigned_f32,
    zero64,
)

__all__ = ["FORMATS"]

# --- scales and minima of repacked chunks ------------------------------------------------------------------------


@helper
def _q2_scales(chunk):
    return unsigned_f32(load16(chunk, 64) & 15) * splat_f16(chunk, 80)


@helper
def _q2_mins(chunk):
    return unsigned_f32(load16(chunk, 64) >> 4) * (splat_f16(chunk, 82) * splat(-1))


def _scales_16(start):
    """Behind so many bytes of quants: signed bytes for groups of 16, then d."""

    @helper
    def scales(chunk):
        return load_i8(chunk, start) * splat_f16(chunk, start + 16)

    return scales


def _scales_32(start):
    """Behind so many bytes of quants, for groups of 32: bytes of scales, bytes of minima, d, dmin."""

    @helper
    def scales(chunk):
        return load_u8(chunk, start) * two_f16(chunk, start + 32)

    @helper
    def mins(chunk):
        return load_u8(chunk, start + 16) * (two_f16(chunk, start + 36) * splat(-1))

    return scales, mins


# --- scales and minima of bundles --------------------------------------------------------------------------------


@helper
def _unsigned(chunk, at):
    return load_u8(chunk, at)


@helper
def _signed(chunk, at):
    return load_i8(chunk, at)


@helper
def _minima_32(chunk, at):
    return load_u8(chunk, at + 128)


@helper
def _low_nibbles(chunk, at):
    return unsigned_f32(load16(chunk, at) & 15)


@helper
def _high_nibbles(chunk, at):
    return unsigned_f32(load16(chunk, at) >> 4)


def _tail_16(start):
    """As `_scales_16`."""
    return Tail((start,), (start + 16,), _signed)


def _tail_32(start):
    """As `_scales_32`."""
    return Tail((start, start + 16), (start + 32, start + 36), _unsigned, _minima_32)


_Q2_TAIL = Tail((64,), (80, 82), _low_nibbles, _high_nibbles)

# --- reading GGUF blocks -----------------------------------------------------------------------------------------


@helper
def _copy_pair(source, s, target, t):
    """Two bytes: a float16."""
    target[t] = source[s]
    target[t + 1] = source[s + 1]


@helper
def _read_fields(source, s, q, shift):
    """Adds two-bit fields of 256 weights: 128 weights share 32 bytes, 32 weights a pair of bits."""
    for half in range(2):
        packed = load32(source, s + half * 32)
        for c in range(4):
            at = half * 128 + c * 32
            store32(q, at, load32(q, at) | (((packed >> (2 * c)) & 3) << shift))


@helper
def _read_bits(source, s, q, at, shift):
    """Adds single bits of 256 weights, whose first is q[at]: bit j of byte i is weight 32j + i's."""
    packed = load32(source, s)
    for j in range(8):
        store32(q, at + 32 * j, load32(q, at + 32 * j) | (((packed >> j) & 1) << shift))


@helper
def _clear(q):
    for k in range(4):
        store64(q, 64 * k, zero64())


@helper
def _read_q2(source, q, m):
    """Blocks of 84 bytes: scales [16], quants [64], d, dmin."""
    _clear(q)
    _read_fields(source, 16, q, 0)


@helper
def _put_q2_scales(source, target, m):
    store16(target, 64, load16(source, 0))
    _copy_pair(source, 80, target, 80)
    _copy_pair(source, 82, target, 82)


@helper
def _read_q3(source, q, m):
    """Blocks of 110 bytes: third bits [32], quants [64], scales of six bits plus 32 [12], d."""
    _clear(q)
    _read_fields(source, 32, q, 0)
    _read_bits(source, 0, q, 0, 2)


@helper
def _put_q3_scales(source, target, m):
    for i in range(16):
        low = source[96 + i % 8] >> (i // 8 * 4) & 15
        high = source[104 + i % 4] >> (i // 4 * 2) & 3
        target[96 + i] = (low | (high << 4)) - 32
    _copy_pair(source, 108, target, 112)


@helper
def _read_nibbles_32(source, s, q, at):
    """128 bytes of nibbles, 32 to 64 weights."""
    for i in range(4):
        packed = load32(source, s + 32 * i)
        store32(q, at + 64 * i, packed & 15)
        store32(q, at + 64 * i + 32, packed >> 4)


@helper
def _read_q4(source, q, m):
    """Blocks of 144 bytes: d, dmin, scales and minima [12], nibbles [128]."""
    for b in range(m >> 8):
        _read_nibbles_32(source, b * 144 + 16, q, b * 256)


@helper
def _read_q5(source, q, m):
    """Blocks of 176 bytes: d, dmin, scales and minima [12], fifth bits [32], nibbles [128]."""
    for b in range(m >> 8):
        _read_nibbles_32(source, b * 176 + 48, q, b * 256)
        _read_bits(source, b * 176 + 16, q, b * 256, 4)


def _put_scales_32(block, start):
    @helper
    def put_scales(source, target, m):
        """d, dmin, 8 scales and 8 minima of six bits, in the blocks' first 16 bytes."""
        for b in range(m >> 8):
            s, scales, mins = b * block, start + b * 8, start + 16 + b * 8
            for j in range(4):
                x, y, z = source[s + 4 + j], source[s + 8 + j], source[s + 12 + j]
                target[scales + j] = x & 63
                target[mins + j] = y & 63
                target[scales + 4 + j] = (z & 15) | ((x >> 6) << 4)
                target[mins + 4 + j] = (z >> 4) | ((y >> 6) << 4)
            _copy_pair(source, s, target, start + 32 + b * 2)
            _copy_pair(source, s + 2, target, start + 36 + b * 2)

    return put_scales


@helper
def _read_q6(source, q, m):
    """Blocks of 210 bytes: nibbles [128], 64 bytes to 128 weights, two-bit fields [64], scales [16], d."""
    for h in range(2):
        first, second = load32(source, h * 64), load32(source, h * 64 + 32)
        store32(q, h * 128, first & 15)
        store32(q, h * 128 + 32, second & 15)
        store32(q, h * 128 + 64, first >> 4)
        store32(q, h * 128 + 96, second >> 4)
    _read_fields(source, 128, q, 4)


@helper
def _put_q6_scales(source, target, m):
    store16(target, 192, load16(source, 192))
    _copy_pair(source, 208, target, 208)


FORMATS: tuple[Format, ...] = (
    make_format(GGMLType.Q2_K, 16, TWO, 20, _read_q2, _put_q2_scales, _q2_scales, _q2_mins, tail=_Q2_TAIL),
    make_format(GGMLType.Q3_K, 16, THREE, 18, _read_q3, _put_q3_scales, _scales_16(96), offset=4, tail=_tail_16(96)),
    make_format(GGMLType.Q4_K, 32, FOUR, 40, _read_q4, _put_scales_32(144, 256), *_scales_32(256), tail=_tail_32(256)),
    make_format(GGMLType.Q5_K, 32, FIVE, 40, _read_q5, _put_scales_32(176, 320), *_scales_32(320), tail=_tail_32(320)),
    make_format(GGMLType.Q6_K, 16, SIX, 18, _read_q6, _put_q6_scales, _scales_16(192), offset=32, tail=_tail_16(192)),
)
