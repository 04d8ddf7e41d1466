"""The i-quants: four or eight numbers at a time are one entry of a table, times a scale, with signs.

Layouts: `ggml-common.h`; d is float16. The tables are those of the `gguf` package. Blocks hold 256 numbers.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from ..types import GGMLType
from .bits import Bytes, Floats, fields, half, over_runs, split

__all__ = ["DECODERS", "entries"]

_Indices = npt.NDArray[np.uint16]


@cache
def entries(name: str) -> Floats:
    """The `gguf` package's table for the type `name`: [entries, 4 or 8]."""
    import gguf

    decoder = getattr(gguf.quants, name)
    decoder.init_grid()
    return np.ascontiguousarray(decoder.grid[0, 0], np.float32)


def _look_up(name: str, indices: _Indices | Bytes) -> Floats:
    """[n, k] indices -> [n, 256] numbers."""
    return np.take(entries(name), indices, axis=0).reshape(len(indices), 256)


def _signs(bits: Bytes) -> Floats:
    """A bit for each number, 1 for minus: [n, 32] bytes -> [n, 256] of +1 and -1."""
    return np.float32(1) - np.float32(2) * np.unpackbits(bits, axis=1, bitorder="little")


def _even_parity(sevens: npt.NDArray[np.uint32] | _Indices) -> Bytes:
    """Seven sign bits as a byte, whose eighth is set so that an even number is."""
    byte = sevens.astype(np.uint8)
    folded = byte ^ byte >> np.uint8(4)
    folded ^= folded >> np.uint8(2)
    folded ^= folded >> np.uint8(1)
    return byte | folded << np.uint8(7)


def _four_sevens(words: npt.NDArray[np.uint32]) -> Bytes:
    """The sign bytes of words that hold four groups of seven bits: [n, 8] -> [n, 32]."""
    shifts = np.array([0, 7, 14, 21], np.uint32)
    return _even_parity((words[:, :, None] >> shifts & np.uint32(127)).reshape(len(words), 32))


def iq2_xxs(blocks: Bytes) -> Floats:
    """d, then per 32 numbers: four table indices, and a word of four sign groups and a four-bit scale on top."""
    d, packed = split(blocks, 2, 64)
    words = np.ascontiguousarray(packed).view(np.uint32).reshape(-1, 8, 2)
    indices = np.ascontiguousarray(words[:, :, 0]).view(np.uint8)
    scale_word = words[:, :, 1]
    scales = half(d) * (np.float32(0.5) + (scale_word >> np.uint32(28)).astype(np.float32)) * np.float32(0.25)
    return over_runs(scales, 32) * _look_up("IQ2_XXS", indices) * _signs(_four_sevens(scale_word))


def iq2_xs(blocks: Bytes) -> Floats:
    """d, 32 words of a nine-bit index and seven signs, 16 four-bit scales."""
    d, packed, scales = split(blocks, 2, 64, 8)
    words = np.ascontiguousarray(packed).view(np.uint16)
    signs = _signs(_even_parity(words >> np.uint16(9)))
    return over_runs(_quarter_scales(d, scales), 16) * _look_up("IQ2_XS", words & np.uint16(511)) * signs


def iq2_s(blocks: Bytes) -> Floats:
    """d, 32 low bytes of indices, 32 bytes of signs, the indices' two high bits, 16 four-bit scales."""
    d, low, signs, high, scales = split(blocks, 2, 32, 32, 8, 8)
    indices = low | fields(high, 2, 1).astype(np.uint16) << np.uint16(8)
    return over_runs(_quarter_scales(d, scales), 16) * _look_up("IQ2_S", indices) * _signs(signs)


def _quarter_scales(d: Bytes, scales: Bytes) -> Floats:
    return half(d) * (np.float32(0.5) + fields(scales, 4, 1)) * np.float32(0.25)


def iq3_xxs(blocks: Bytes) -> Floats:
    """d, 64 indices, then per 32 numbers a word of four sign groups and a four-bit scale on top."""
    d, indices, packed = split(blocks, 2, 64, 32)
    words = np.ascontiguousarray(packed).view(np.uint32)
    scales = half(d) * (np.float32(0.5) + (words >> np.uint32(28)).astype(np.float32)) * np.float32(0.5)
    return over_runs(scales, 32) * _look_up("IQ3_XXS", indices) * _signs(_four_sevens(words))


def iq3_s(blocks: Bytes) -> Floats:
    """d, 64 low bytes of indices, their ninth bits, 32 bytes of signs, 8 four-bit scales."""
    d, low, ninth, signs, scales = split(blocks, 2, 64, 8, 32, 4)
    indices = low | fields(ninth, 1, 1).astype(np.uint16) << np.uint16(8)
    steps = half(d) * (np.uint8(1) + np.uint8(2) * fields(scales, 4, 1))
    return over_runs(steps, 32) * _look_up("IQ3_S", indices) * _signs(signs)


def iq1_s(blocks: Bytes) -> Floats:
    """d, 32 low bytes of indices, then per 32 numbers a word: four times three high bits, scale, shift's sign."""
    d, low, packed = split(blocks, 2, 32, 16)
    words = np.ascontiguousarray(packed).view(np.uint16)
    scales = half(d) * _odd(words >> np.uint16(12))
    shift = np.where(words & np.uint16(0x8000), -_SHIFT, _SHIFT)
    indices = low | _threes(words).reshape(-1, 32) << np.uint16(8)
    return over_runs(scales, 32) * (_look_up("IQ1_S", indices) + over_runs(shift, 32))


def iq1_m(blocks: Bytes) -> Floats:
    """32 low bytes of indices; per index three high bits and the shift's sign; four words of four three-bit scales,
    whose top four bits together are d."""
    low, high, packed = split(blocks, 32, 16, 8)
    words = np.ascontiguousarray(packed).view(np.uint16)
    pieces = words >> np.uint16(12) << np.array([0, 4, 8, 12], np.uint16)
    d = np.bitwise_or.reduce(pieces, axis=1, keepdims=True).view(np.float16).astype(np.float32)
    scales = d * _odd(_threes(words).reshape(-1, 16))
    tops = fields(high, 4, 1)
    shift = np.where(tops & np.uint8(8), -_SHIFT, _SHIFT)
    indices = low | (tops & np.uint8(7)).astype(np.uint16) << np.uint16(8)
    return over_runs(scales, 16) * (_look_up("IQ1_M", indices) + over_runs(shift, 8))


_SHIFT = np.float32(0.125)


def _odd(words: _Indices) -> _Indices:
    """The scale 2 s + 1 of three bits s."""
    return np.uint16(2) * (words & np.uint16(7)) + np.uint16(1)


def _threes(words: _Indices) -> _Indices:
    """The four lowest groups of three bits: [n, k] -> [n, k, 4]."""
    return words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & np.uint16(7)


DECODERS = {
    GGMLType.IQ2_XXS: iq2_xxs,
    GGMLType.IQ2_XS: iq2_xs,
    GGMLType.IQ2_S: iq2_s,
    GGMLType.IQ3_XXS: iq3_xxs,
    GGMLType.IQ3_S: iq3_s,
    GGMLType.IQ1_S: iq1_s,
    GGMLType.IQ1_M: iq1_m,
}
