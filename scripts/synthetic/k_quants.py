"""float32 to Q4_K and Q6_K, which the `gguf` package only reads.

Rounding is plain (no search for the best scale, as ggml's quantiser does): the bytes are valid, and decode close to
what was encoded. Formats: `block_q4_K` and `block_q6_K` in ggml's `ggml-common.h`.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["quantize_q4_k", "quantize_q6_k"]

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BLOCK = 256


def quantize_q4_k(x: Floats) -> Bytes:
    """[rows, n * 256] -> [rows, n * 144]. A number is d * scale * q - dmin * min: q of 4 bits, scale and min of 6."""
    parts = x.reshape(-1, 8, 32)  # 8 sub-blocks, each with its scale and its min
    low = np.minimum(parts.min(axis=2), 0)
    span = parts.max(axis=2) - low  # at least 0: `low` is no more than any number
    d, scales = _six_bits(span / 15, 63)
    dmin, mins = _six_bits(-low, 63)
    step = d[:, None] * scales
    offset = dmin[:, None] * mins
    q = np.rint((parts + offset[:, :, None]) * _inverse(step)[:, :, None])
    q = np.clip(q, 0, 15).astype(np.uint8).reshape(-1, 4, 2, 32)
    nibbles = q[:, :, 0] | q[:, :, 1] << 4  # two sub-blocks share 32 bytes
    blocks = [_half(d), _half(dmin), _pack_scales(scales, mins), nibbles.reshape(-1, 128)]
    return np.concatenate(blocks, axis=1).reshape(len(x), -1)


def quantize_q6_k(x: Floats) -> Bytes:
    """[rows, n * 256] -> [rows, n * 210]. A number is d * scale * (q - 32): q of 6 bits, scale of 8 with its sign."""
    parts = x.reshape(-1, 16, 16)
    largest = np.abs(parts).max(axis=2)
    d, scales = _six_bits(largest / 31, 127)
    q = np.rint(parts * _inverse(d[:, None] * scales)[:, :, None])
    q = (np.clip(q, -32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)  # halves of four runs of 32
    low, high = q & 15, q >> 4
    ql = np.stack([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=2)
    qh = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    blocks = [ql.reshape(-1, 128), qh.reshape(-1, 64), scales.astype(np.uint8), _half(d)]
    return np.concatenate(blocks, axis=1).reshape(len(x), -1)


def _six_bits(values: Floats, most: int) -> tuple[Floats, Floats]:
    """Positive [n, k] as d [n] (what a float16 holds) times integers [n, k] up to `most`."""
    d = (values.max(axis=1) / most).astype(np.float16).astype(np.float32)
    integers = np.clip(np.rint(values * _inverse(d)[:, None]), 0, most)
    return d, integers


def _inverse(x: Floats) -> Floats:
    """1 / x, and 0 for 0."""
    return np.divide(1, x, out=np.zeros_like(x), where=x != 0)


def _half(x: Floats) -> Bytes:
    """[n] -> [n, 2]"""
    return x.astype(np.float16)[:, None].view(np.uint8)


def _pack_scales(scales: Floats, mins: Floats) -> Bytes:
    """8 scales and 8 mins of 6 bits in 12 bytes: the last four of each are split into nibbles and top bits."""
    s, m = scales.astype(np.uint8), mins.astype(np.uint8)
    first_scales = s[:, :4] | s[:, 4:] >> 4 << 6
    first_mins = m[:, :4] | m[:, 4:] >> 4 << 6
    return np.concatenate([first_scales, first_mins, s[:, 4:] & 15 | m[:, 4:] << 4], axis=1)
