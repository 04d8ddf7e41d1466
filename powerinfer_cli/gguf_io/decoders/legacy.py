"""Plain floats, and the block formats with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

Layouts: `ggml-common.h`. d and m are float16. Block of 32 numbers; number i < 16 has its low four bits in the low
half of byte i, number i + 16 in the high half; the fifth bits are one 32-bit word.
"""

import numpy as np
import numpy.typing as npt

from ..types import GGMLType
from .bits import Bytes, Floats, half, nibbles, split

__all__ = ["DECODERS"]


def f32(blocks: Bytes) -> Floats:
    return blocks.view(np.float32)


def f16(blocks: Bytes) -> Floats:
    return half(blocks)


def bf16(blocks: Bytes) -> Floats:
    """The upper half of a float32."""
    return (blocks.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def q4_0(blocks: Bytes) -> Floats:
    """d, quants: (q - 8) * d."""
    d, quants = split(blocks, 2, 16)
    return half(d) * (nibbles(quants, 16).view(np.int8) - np.int8(8))


def q4_1(blocks: Bytes) -> Floats:
    """d, m, quants: q * d + m."""
    d, m, quants = split(blocks, 2, 2, 16)
    return half(d) * nibbles(quants, 16) + half(m)


def q5_0(blocks: Bytes) -> Floats:
    """d, fifth bits, quants: (q - 16) * d."""
    d, fifth, quants = split(blocks, 2, 4, 16)
    return half(d) * (_five_bits(quants, fifth).view(np.int8) - np.int8(16))


def q5_1(blocks: Bytes) -> Floats:
    """d, m, fifth bits, quants: q * d + m."""
    d, m, fifth, quants = split(blocks, 2, 2, 4, 16)
    return half(d) * _five_bits(quants, fifth) + half(m)


def q8_0(blocks: Bytes) -> Floats:
    """d, signed bytes: q * d."""
    d, quants = split(blocks, 2, 32)
    return half(d) * quants.view(np.int8)


def _five_bits(quants: Bytes, fifth: Bytes) -> Bytes:
    high: npt.NDArray[np.uint8] = np.unpackbits(fifth, axis=1, bitorder="little")
    return nibbles(quants, 16) | high << np.uint8(4)


DECODERS = {
    GGMLType.F32: f32,
    GGMLType.F16: f16,
    GGMLType.BF16: bf16,
    GGMLType.Q4_0: q4_0,
    GGMLType.Q4_1: q4_1,
    GGMLType.Q5_0: q5_0,
    GGMLType.Q5_1: q5_1,
    GGMLType.Q8_0: q8_0,
}
