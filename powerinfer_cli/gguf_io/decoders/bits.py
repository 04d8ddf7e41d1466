"""Taking packed fields out of blocks, and laying scales over runs of numbers."""

import numpy as np
import numpy.typing as npt

__all__ = ["Bytes", "Floats", "fields", "half", "nibbles", "over_runs", "split"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def split(blocks: Bytes, *sizes: int) -> list[Bytes]:
    """The blocks' consecutive fields, `sizes` bytes each: views [n, size]."""
    ends = np.cumsum(sizes)
    return [blocks[:, end - size : end] for size, end in zip(sizes, ends, strict=True)]


def half(field: Bytes) -> Floats:
    """Two bytes each, as float16 -> float32 [n, size / 2]."""
    return np.ascontiguousarray(field).view(np.float16).astype(np.float32)


def fields(packed: Bytes, width: int, run: int) -> Bytes:
    """Fields of `width` bits, lowest first: those of `run` bytes' lowest bits, then their next bits, and so on.

    [n, size] -> [n, size * 8 / width]. With `run` 1 the fields come byte by byte.
    """
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    runs = packed.reshape(len(packed), packed.shape[1] // run, 1, run)
    mask = np.uint8((1 << width) - 1)
    return (runs >> shifts & mask).reshape(len(packed), packed.shape[1] * (8 // width))


def nibbles(packed: Bytes, run: int) -> Bytes:
    """Four-bit fields: of each `run` bytes first the low halves, then the high ones."""
    return fields(packed, 4, run)


def over_runs(scales: Floats, run: int) -> Floats:
    """Each scale `run` times: [n, s] -> [n, s * run]."""
    return np.repeat(scales, run, axis=1)
