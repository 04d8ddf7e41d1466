"""What a weight format is to the kernels, and the kernels that all block formats share.

A weight is  scale * q + min,  q a small integer, scale (and min, where there is one) per group of 16 or 32 weights.
At load each GGUF row is rearranged ("repacked") in chunks of 16 groups, the last of which may be shorter: in each all
quants, so that 64 neighbouring ones unpack with a few instructions, then the scales, which load as one vector. No value
changes. A row is read from its front to its end: that is what the processor's own prefetching is made for.

The input of a dot product with block formats is a quantised vector, a record of `record_bytes(n)` bytes: with
P = n rounded up to 512, int8 q [P], float32 d [P/32], int32 sums of q per 32 [P/32], int32 sums of q per 16 [P/16];
x = d * q, and zeros behind n. For float formats it is float32 [n].

Kernels read up to 1 KiB behind a row (and use nothing of it): buffers of rows need `SLACK` bytes at their end.
"""

from collections.abc import Callable
from dataclasses import dataclass

from numba import types

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.jit import Kernel

__all__ = ["AXPY", "AXPY4", "CHUNK", "DOT", "REPACK", "SLACK", "UNPACK", "Format", "padded", "record_bytes"]

CHUNK = 512
SLACK = 1024

# Rows and vectors are addresses; n is the number of weights in the whole row; begin and end are multiples of 64
# (the end may also be n). Quants are written, and y is read and written, in whole 64s.
DOT = types.float32(types.int64, types.int64, types.int64, types.int64)
#    (row, x, n, ahead) -> row . x; on the way memory is asked for as many bytes from `ahead` on, any address, as the
#    row has: evenly, for the CPU drops requests that come in bursts
AXPY = types.void(types.int64, types.int64, types.int64, types.int64, types.float32, types.int64)
#    (row, n, begin, end, a, y): y[begin:end] += a * row[begin:end], y float32 [n]
AXPY4 = types.void(types.int64, types.int64, types.int64, types.int64)
#    (rows, n, a, y): y += a[k] * row k, one after the other, for four rows; rows int64 [4], a float32 [4]
UNPACK = types.void(*[types.int64] * 7)
#    (row, n, begin, end, q, scales, mins): int8 q [end - begin], float32 scales and mins [(end - begin) / group];
#    for float formats q is float32 [end - begin] and the others are unused
REPACK = types.void(types.int64, types.int64, types.int64)  # (GGUF row, repacked row, n)


@dataclass(frozen=True)
class Format:
    """One weight format. `group` weights share a scale (0: a float format, whose rows stay as they are in the file)."""

    type: GGMLType
    group: int
    has_min: bool
    row_bytes: Callable[[int], int]  # of a repacked row of n weights
    repack: Kernel | None
    dot: Kernel
    axpy: Kernel
    axpy4: Kernel
    unpack: Kernel

    @property
    def is_float(self) -> bool:
        return self.group == 0


def padded(n: int) -> int:
    """P: n rounded up to whole chunks."""
    return -(-n // CHUNK) * CHUNK


def record_bytes(n: int) -> int:
    """Bytes of a quantised vector of n numbers."""
    return padded(n) * 3 // 2
