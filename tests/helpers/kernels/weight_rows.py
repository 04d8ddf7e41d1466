"""GGUF rows of the types with kernels, random bytes but for their scales; and memory with a guard behind it."""

import ctypes
import mmap

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType, quantize

Bytes = npt.NDArray[np.uint8]

FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)
# Where a block's float16 numbers are. (MXFP4 has none: any exponent is fine but the largest, which overflow.)
_HALVES = {
    GGMLType.Q4_0: (0,),
    GGMLType.Q4_1: (0, 2),
    GGMLType.Q5_0: (0,),
    GGMLType.Q5_1: (0, 2),
    GGMLType.Q8_0: (0,),
    GGMLType.Q2_K: (80, 82),
    GGMLType.Q3_K: (108,),
    GGMLType.Q4_K: (0, 2),
    GGMLType.Q5_K: (0, 2),
    GGMLType.Q6_K: (208,),
    GGMLType.IQ4_NL: (0,),
    GGMLType.IQ4_XS: (0,),
}
# float16: the largest, the least, 0, -0, and the least that is not subnormal.
EXTREMES = np.array([65504, -65504, 2**-24, -(2**-24), 0.0, -0.0, 2**-14], np.float16)


def gguf_rows(kind: GGMLType, n_rows: int, n: int, seed: int = 0, *, extreme: bool = False) -> Bytes:
    """[n_rows, row_bytes]: any quants; scales of both signs around 0.01, or the extremes of float16."""
    rng = np.random.default_rng(seed)
    if kind in FLOATS:
        return quantize(rng.standard_normal((n_rows, n)).astype(np.float32), kind)
    size, n_bytes = BLOCK[kind]
    assert n % size == 0
    blocks = rng.integers(0, 256, (n_rows, n // size, n_bytes), dtype=np.uint8)
    for at in _HALVES.get(kind, ()):
        halves = (rng.standard_normal((n_rows, n // size)) / 100).astype(np.float16)
        if extreme:
            halves = rng.choice(EXTREMES, (n_rows, n // size))
        blocks[:, :, at : at + 2] = halves.view(np.uint8).reshape(n_rows, -1, 2)
    if kind is GGMLType.MXFP4:
        blocks[:, :, 0] = (
            rng.integers(0, 252, blocks.shape[:2]) if extreme else rng.integers(118, 124, blocks.shape[:2])
        )
    return blocks.reshape(n_rows, -1)


def at_the_edge(data: Bytes) -> Bytes:
    """A copy whose last byte is the last one that may be touched: behind it the process ends."""
    pages = -(-data.size // mmap.PAGESIZE) * mmap.PAGESIZE
    room = mmap.mmap(-1, pages + mmap.PAGESIZE)
    memory = np.frombuffer(room, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    guard = ctypes.c_void_p(memory.ctypes.data + pages)
    assert libc.mprotect(guard, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    copy = memory[pages - data.size : pages]
    copy[:] = data.ravel()
    return copy
