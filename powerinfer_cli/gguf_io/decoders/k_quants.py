"""The k-quants: blocks of 256 numbers in runs of 16 or 32, each run with a scale (and minimum) of its own.

Layouts: `ggml-common.h`. d and dmin are float16; the runs' scales are small integers that multiply them.
"""

import numpy as np

from ..types import GGMLType
from .bits import Bytes, Floats, fields, half, nibbles, over_runs, split

__all__ = ["DECODERS"]


def q2_k(blocks: Bytes) -> Floats:
    """16 bytes of scale (low half) and minimum (high half), two-bit quants, d, dmin."""
    packed, quants, d, dmin = split(blocks, 16, 64, 2, 2)
    scales = half(d) * (packed & np.uint8(15))
    minima = half(dmin) * (packed >> np.uint8(4))
    return over_runs(scales, 16) * fields(quants, 2, 32) - over_runs(minima, 16)


def q3_k(blocks: Bytes) -> Floats:
    """Third bits, two low bits, 16 six-bit scales (offset 32), d. A third bit of 0 subtracts 4."""
    high, low, packed, d = split(blocks, 32, 64, 12, 2)
    six_bits = nibbles(packed[:, :8], 8) | fields(packed[:, 8:], 2, 4) << np.uint8(4)
    scales = half(d) * (six_bits.view(np.int8) - np.int8(32))
    quants = (fields(low, 2, 32) | fields(high, 1, 32) << np.uint8(2)).view(np.int8) - np.int8(4)
    return over_runs(scales, 16) * quants


def q4_k(blocks: Bytes) -> Floats:
    """d, dmin, 8 six-bit scales and minima, four-bit quants."""
    d, dmin, packed, quants = split(blocks, 2, 2, 12, 128)
    scales, minima = _scales_and_minima(d, dmin, packed)
    return scales * nibbles(quants, 32) - minima


def q5_k(blocks: Bytes) -> Floats:
    """As Q4_K, with the fifth bits of the quants before them."""
    d, dmin, packed, fifth, quants = split(blocks, 2, 2, 12, 32, 128)
    scales, minima = _scales_and_minima(d, dmin, packed)
    return scales * (nibbles(quants, 32) | fields(fifth, 1, 32) << np.uint8(4)) - minima


def q6_k(blocks: Bytes) -> Floats:
    """Four low bits, two high bits (offset 32), 16 signed one-byte scales, d."""
    low, high, scales, d = split(blocks, 128, 64, 16, 2)
    quants = (nibbles(low, 64) | fields(high, 2, 32) << np.uint8(4)).view(np.int8) - np.int8(32)
    return over_runs(half(d) * scales.view(np.int8), 16) * quants


def _scales_and_minima(d: Bytes, dmin: Bytes, packed: Bytes) -> tuple[Floats, Floats]:
    """Eight runs' scales and minima, each [n, 256], from 12 bytes of six-bit numbers.

    Runs 0-3: scales are the low six bits of bytes 0-3, minima those of bytes 4-7. Runs 4-7: the low four bits are
    in bytes 8-11 (scales in the low halves, minima in the high ones), the high two on top of bytes 0-3 and 4-7.
    """
    first, second, rest = split(packed, 4, 4, 4)
    low, top, four = np.uint8(63), np.uint8(0x30), np.uint8(15)
    scales = np.concatenate([first & low, rest & four | first >> np.uint8(2) & top], axis=1)
    minima = np.concatenate([second & low, rest >> np.uint8(4) | second >> np.uint8(2) & top], axis=1)
    return over_runs(half(d) * scales, 32), over_runs(half(dmin) * minima, 32)


DECODERS = {
    GGMLType.Q2_K: q2_k,
    GGMLType.Q3_K: q3_k,
    GGMLType.Q4_K: q4_k,
    GGMLType.Q5_K: q5_k,
    GGMLType.Q6_K: q6_k,
}
