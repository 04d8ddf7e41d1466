"""Stored matrices without a file."""

from functools import cache

import numpy as np

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFError, Tensor, dequantize, quantize


def stored(data: np.ndarray, kind: GGMLType = GGMLType.F32) -> Tensor:
    """Numbers [rows, columns] as a tensor of a type; uint8 rows are that type's bytes already."""
    rows = data if data.dtype == np.uint8 else quantize(data.astype(np.float32), kind)
    block_size, block_bytes = BLOCK[kind]
    shape = (len(rows), rows.shape[1] // block_bytes * block_size)
    return Tensor("test", kind, shape, np.ascontiguousarray(rows).view(np.uint8).reshape(-1))


def weight_types() -> list[GGMLType]:
    """Every type that can hold weights."""
    kinds = []
    for kind in GGMLType:
        try:
            dequantize(np.zeros((0, BLOCK[kind][1]), np.uint8), kind)
        except GGUFError:
            continue
        kinds.append(kind)
    return kinds


def random_rows(kind: GGMLType, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Bytes [rows, row_bytes] of numbers of order 0.1: quantised, or, where nothing quantises, of random blocks."""
    rng = np.random.default_rng(seed)
    try:
        return quantize((rng.standard_normal((rows, columns)) * 0.1).astype(np.float32), kind)
    except GGUFError:
        blocks = _random_blocks(kind)
    n_blocks = rows * (columns // BLOCK[kind][0])
    return blocks[rng.integers(0, len(blocks), n_blocks)].reshape(rows, -1)


@cache
def _random_blocks(kind: GGMLType) -> np.ndarray:
    """Any bytes are a valid block; drawn ones are kept if their numbers are finite and neither all tiny nor huge."""
    drawn = np.random.default_rng(0).integers(0, 256, (4000, BLOCK[kind][1]), dtype=np.uint8)
    with np.errstate(all="ignore"):
        largest = np.abs(dequantize(drawn, kind)).max(axis=1)
    return drawn[(largest > 0.05) & (largest < 0.5)]
