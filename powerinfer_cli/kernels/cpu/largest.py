"""The largest numbers of each row by size: how large they are, and rows of them alone."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.jit import kernel, types
from powerinfer_cli.kernels.simd import f32, i32

__all__ = ["keep_largest", "least_of_largest"]

Floats = npt.NDArray[np.float32]

_NO_SIGN = 0x7FFFFFFF


def least_of_largest(values: Floats, count: int) -> Floats:
    """values [T, n], rows as far apart as they like -> [T]: the size of each row's `count` largest, the least of them.

    A row has at least `count` numbers of that size or a larger one; NaN counts as the largest. 1 <= count <= n.
    """
    n_rows, n = values.shape
    if not 1 <= count <= n:
        raise ValueError(f"the {count} largest of {n}")
    if not _in_rows(values):
        values = np.ascontiguousarray(values, np.float32)
    found = np.empty(n_rows, np.float32)
    least_of_largest_rows.call(values.ctypes.data, n_rows, values.strides[0], n, count, found.ctypes.data)
    return found


def keep_largest(values: Floats, count: int) -> None:
    """Of each row of values [T, n], what is smaller than its `count` largest becomes 0, in place."""
    if not _in_rows(values):
        raise ValueError("a row's numbers must be float32 and lie side by side")
    least = least_of_largest(values, count)
    n_rows, n = values.shape
    drop_smaller.call(values.ctypes.data, n_rows, values.strides[0], n, least.ctypes.data)


def _in_rows(values: Floats) -> bool:
    return values.dtype == np.float32 and values.strides[1] == values.itemsize


@kernel(types.void(*[types.int64] * 6))
def least_of_largest_rows(address, n_rows, stride, n, count, out):
    """By halving: sizes of floats are in the order of their bits without the sign."""
    for t in range(n_rows):
        bits = i32(address + t * stride)
        low, high = np.int32(0), np.int32(_NO_SIGN)  # enough numbers are at least low; too few are above high
        while low < high:
            middle = low + (high - low) // np.int32(2) + np.int32(1)
            found = np.int32(0)
            for i in range(n):
                found += np.int32((bits[i] & np.int32(_NO_SIGN)) >= middle)
            if found >= count:
                low = middle
            else:
                high = middle - np.int32(1)
        i32(out)[t] = low


@kernel(types.void(*[types.int64] * 5))
def drop_smaller(address, n_rows, stride, n, least):
    """Sizes below their row's least become 0."""
    for t in range(n_rows):
        row, bits, bound = f32(address + t * stride), i32(address + t * stride), i32(least)[t]
        for i in range(n):
            if (bits[i] & np.int32(_NO_SIGN)) < bound:
                row[i] = np.float32(0.0)
