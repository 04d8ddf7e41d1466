"""Quants and scales as a type's blocks: the inverse of `decoders`. Layouts: `ggml-common.h`."""

import numpy as np
import numpy.typing as npt

__all__ = ["four_bits", "half_bytes", "nibbles", "packed_fields", "scales_and_minima", "six_bit_scales"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def half_bytes(numbers: Floats) -> Bytes:
    """[n] as float16: bytes [n, 2]."""
    return np.ascontiguousarray(numbers, np.float16).view(np.uint8).reshape(-1, 2)


def packed_fields(values: Bytes, width: int, run: int) -> Bytes:
    """The inverse of `decoders.bits.fields`: [n, size * 8 / width] -> [n, size]."""
    parts = values.reshape(len(values), -1, 8 // width, run)
    packed = parts[:, :, 0].copy()
    for place in range(1, 8 // width):
        packed |= parts[:, :, place] << np.uint8(place * width)
    return packed.reshape(len(values), -1)


def nibbles(values: Bytes, run: int) -> Bytes:
    """Low halves of each `run` bytes, then their high ones."""
    return packed_fields(values & np.uint8(15), 4, run)


def four_bits(q: Bytes) -> tuple[Bytes, Bytes]:
    """Quants of five bits [n, 32]: their fifth bits [n, 4] and the rest [n, 16]."""
    return np.packbits(q >> np.uint8(4), axis=1, bitorder="little"), nibbles(q, 16)


def scales_and_minima(scales: Bytes, minima: Bytes) -> Bytes:
    """Eight six-bit scales and minima [n, 8] in the 12 bytes of Q4_K and Q5_K: see `decoders.k_quants`."""
    low, four = np.uint8(15), np.uint8(4)
    first = scales[:, :4] | scales[:, 4:] >> four << np.uint8(6)
    second = minima[:, :4] | minima[:, 4:] >> four << np.uint8(6)
    return np.concatenate([first, second, scales[:, 4:] & low | (minima[:, 4:] & low) << four], axis=1)


def six_bit_scales(scales: Bytes) -> Bytes:
    """16 six-bit scales [n, 16] in the 12 bytes of Q3_K."""
    return np.concatenate([nibbles(scales, 8), packed_fields(scales >> np.uint8(4), 2, 4)], axis=1)
