"""Formats of two, three or four evenly spaced levels with one scale: Q1_0, TQ1_0, TQ2_0, Q2_0.

Layouts: `ggml-common.h`; d is float16.
"""

import numpy as np

from ..types import GGMLType
from .bits import Bytes, Floats, fields, half, split

__all__ = ["DECODERS"]

_POWERS_OF_THREE = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]


def q1_0(blocks: Bytes) -> Floats:
    """d, 128 bits: 1 is d, 0 is -d."""
    d, bits = split(blocks, 2, 16)
    return np.where(fields(bits, 1, 1), half(d), -half(d))


def q2_0(blocks: Bytes) -> Floats:
    """d, 64 two-bit fields: (q - 1) * d."""
    d, quants = split(blocks, 2, 16)
    return half(d) * (fields(quants, 2, 1).view(np.int8) - np.int8(1))


def tq1_0(blocks: Bytes) -> Floats:
    """256 numbers of three levels: bytes of five in runs of 32 and of 16 bytes, then four bytes of four; d."""
    first, second, last, d = split(blocks, 32, 16, 4, 2)
    trits = np.concatenate([_trits(first, 5), _trits(second, 5), _trits(last, 4)], axis=1)
    return half(d) * (trits.view(np.int8) - np.int8(1))


def tq2_0(blocks: Bytes) -> Floats:
    """256 two-bit fields: (q - 1) * d; d."""
    quants, d = split(blocks, 64, 2)
    return half(d) * (fields(quants, 2, 32).view(np.int8) - np.int8(1))


def _trits(packed: Bytes, digits: int) -> Bytes:
    """Base-three digits, most significant first, of bytes that hold 256ths: [n, size] -> [n, digits * size]."""
    shifted = packed[:, None, :] * _POWERS_OF_THREE[:digits]
    return (shifted.astype(np.uint16) * np.uint16(3) >> np.uint16(8)).astype(np.uint8).reshape(len(packed), -1)


DECODERS = {
    GGMLType.Q1_0: q1_0,
    GGMLType.Q2_0: q2_0,
    GGMLType.TQ1_0: tq1_0,
    GGMLType.TQ2_0: tq2_0,
}
