"""Floats of eight bits: what each of the 256 bytes is (OCP 8-bit floating point specification)."""

from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "e4m3", "e5m2", "e8m0"]

Floats = npt.NDArray[np.float32]


@cache
def e4m3() -> Floats:
    """Four bits of exponent, three of fraction; no infinities, and no number where all of them are set."""
    bits = np.arange(256)
    exponent, fraction = bits >> 3 & 15, bits & 7
    size = np.where(exponent > 0, np.ldexp(8.0 + fraction, exponent - 10), np.ldexp(1.0 * fraction, -9))
    return np.where(bits & 127 == 127, np.nan, np.where(bits > 127, -size, size)).astype(np.float32)


@cache
def e5m2() -> Floats:
    """The upper half of a float16."""
    return (np.arange(256, dtype=np.uint16) << np.uint16(8)).view(np.float16).astype(np.float32)


@cache
def e8m0() -> Floats:
    """Powers of two, for scales; 255 is no number."""
    powers = np.ldexp(1.0, np.arange(256) - 127)
    powers[255] = np.nan
    return powers.astype(np.float32)
