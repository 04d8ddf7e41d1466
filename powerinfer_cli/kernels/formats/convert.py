"""Types without kernels of their own: which format each is converted to at load, and how.

F64 becomes F32. Types of evenly spaced levels fit into a format with more levels and lose nothing: TQ1_0 and TQ2_0
become Q2_K, Q1_0 and Q2_0 become Q4_0. All others have 1.5 to 4.5 bits and become Q8_0: it moves a weight by no more
than 1/254 of the largest in its block of 32, far less than those types' own steps, in half the memory of F16.
"""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFError, dequantize, quantize

__all__ = ["conversion", "convert"]

_TARGETS = {
    GGMLType.F64: GGMLType.F32,
    GGMLType.TQ1_0: GGMLType.Q2_K,
    GGMLType.TQ2_0: GGMLType.Q2_K,
    GGMLType.Q1_0: GGMLType.Q4_0,
    GGMLType.Q2_0: GGMLType.Q4_0,
    **dict.fromkeys(
        (
            GGMLType.IQ1_S,
            GGMLType.IQ1_M,
            GGMLType.IQ2_XXS,
            GGMLType.IQ2_XS,
            GGMLType.IQ2_S,
            GGMLType.IQ3_XXS,
            GGMLType.IQ3_S,
            GGMLType.NVFP4,
        ),
        GGMLType.Q8_0,
    ),
}

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def conversion(kind: GGMLType) -> GGMLType:
    """What a type without kernels is converted to. GGUFError where its numbers are no weights."""
    target = _TARGETS.get(kind)
    if target is None:
        raise GGUFError(f"numbers of type {kind.name} are no weights")
    return target


def convert(rows: Bytes, kind: GGMLType) -> Bytes:
    """GGUF rows [n_rows, row_bytes] of one type to those of its conversion."""
    target = conversion(kind)
    if kind is GGMLType.F64:
        with np.errstate(over="ignore"):  # to infinity
            return rows.view(np.float64).astype(np.float32).view(np.uint8)
    numbers = dequantize(rows, kind)
    if target is GGMLType.Q2_K:
        return _ternary(numbers)
    if target is GGMLType.Q4_0:
        block_size, block_bytes = BLOCK[kind]
        halves = rows.reshape(len(rows), -1, block_bytes)[:, :, :2]
        return _levels(numbers, np.repeat(halves, block_size // 32, axis=1))
    return quantize(numbers, target)


def _ternary(numbers: Floats) -> Bytes:
    """Q2_K of superblocks that hold -d, 0 and d: (q - 1) * d, all scales and minima 1."""
    blocks = numbers.reshape(len(numbers), -1, 256)
    d = np.abs(blocks).max(axis=-1, keepdims=True).astype(np.float16).view(np.uint8)
    q = (np.sign(blocks) + 1).astype(np.uint8).reshape(*blocks.shape[:2], 2, 4, 32)
    packed = q[..., 0, :] | q[..., 1, :] << 2 | q[..., 2, :] << 4 | q[..., 3, :] << 6
    scales = np.full((*blocks.shape[:2], 16), 0x11, np.uint8)
    return np.concatenate([scales, packed.reshape(*blocks.shape[:2], 64), d, d], axis=-1).reshape(len(numbers), -1)


def _levels(numbers: Floats, halves: Bytes) -> Bytes:
    """Q4_0 of blocks that hold whole multiples, -8 to 7, of a float16 d, given as bytes [n_rows, blocks, 2]."""
    blocks = numbers.reshape(len(numbers), -1, 32)
    d = np.ascontiguousarray(halves).view(np.float16).astype(np.float32)
    q = (np.rint(np.divide(blocks, d, out=np.zeros_like(blocks), where=d != 0)) + 8).astype(np.uint8)
    packed = q[:, :, :16] | q[:, :, 16:] << 4
    return np.concatenate([halves, packed], axis=-1).reshape(len(numbers), -1)
