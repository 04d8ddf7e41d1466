"""Vectors whose last lanes are another head's."""

from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import first_or, store_f32, total, zero

__all__ = ["store_first"]


@helper
def store_first(target, at, x, n):
    """target[at + i] = x[i] of the first n lanes; what lies behind may be written by another thread."""
    if n >= 16:
        store_f32(target, at, x)
    else:
        for i in range(n):
            target[at + i] = total(first_or(x, i + 1, zero()) - first_or(x, i, zero()))
