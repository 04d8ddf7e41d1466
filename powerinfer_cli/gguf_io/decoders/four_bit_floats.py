"""Formats whose four bits are an index into sixteen unevenly spaced values: IQ4_NL, IQ4_XS, MXFP4, NVFP4.

Layouts and values: `ggml-common.h`. In each run of 2 k numbers, byte i holds number i low and number i + k high.
"""

import numpy as np

from ..types import GGMLType
from .bits import Bytes, Floats, fields, half, nibbles, over_runs, split

__all__ = ["DECODERS", "NON_LINEAR"]

NON_LINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_NON_LINEAR = np.array(NON_LINEAR, np.float32)

# The values of an E2M1 float, doubled; the scales below are halved to make up for it. Minus zero is plain zero.
_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def _powers_of_two() -> Floats:
    """A byte e as 2 ** (e - 128), half of the OCP standard's E8M0; the two smallest are subnormal."""
    return np.ldexp(np.float32(1), np.arange(256, dtype=np.int32) - 128).astype(np.float32)


def _unsigned_e4m3() -> Floats:
    """A byte as half of an E4M3 float without sign (the top bit does not count); 0x7F stands for 0."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    values = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0)) / 2
    values[0x7F] = 0
    return values.astype(np.float32)


_E8M0_HALVED = _powers_of_two()
_E4M3_HALVED = _unsigned_e4m3()


def iq4_nl(blocks: Bytes) -> Floats:
    """d, quants."""
    d, quants = split(blocks, 2, 16)
    return half(d) * _NON_LINEAR[nibbles(quants, 16)]


def iq4_xs(blocks: Bytes) -> Floats:
    """d, the high two bits of eight scales (offset 32), their low four, quants of 256 numbers in runs of 32."""
    d, high, low, quants = split(blocks, 2, 2, 4, 128)
    six_bits = fields(low, 4, 1) | fields(high, 2, 1) << np.uint8(4)
    scales = half(d) * (six_bits.view(np.int8) - np.int8(32))
    return over_runs(scales, 32) * _NON_LINEAR[nibbles(quants, 16)]


def mxfp4(blocks: Bytes) -> Floats:
    """A power of two, quants of 32 numbers."""
    exponent, quants = split(blocks, 1, 16)
    return _E8M0_HALVED[exponent] * _E2M1[nibbles(quants, 16)]


def nvfp4(blocks: Bytes) -> Floats:
    """Four scales, quants of 64 numbers in runs of 16."""
    scales, quants = split(blocks, 4, 32)
    return over_runs(_E4M3_HALVED[scales], 16) * _E2M1[nibbles(quants, 8)]


DECODERS = {
    GGMLType.IQ4_NL: iq4_nl,
    GGMLType.IQ4_XS: iq4_xs,
    GGMLType.MXFP4: mxfp4,
    GGMLType.NVFP4: nvfp4,
}
