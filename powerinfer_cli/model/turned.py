"""Down matrices turned round, so that a neuron is a row: in which type, how many bytes, and what that loses.

Blocks lie along rows, so that a quantised matrix is quantised anew when it is turned. What that costs in perplexity is
measured in scripts/bench/NOTES.md: next to nothing in Q8_0, some per cent in types of four bits.
"""

from enum import StrEnum
from typing import TypeAlias

import numpy as np

from powerinfer_cli.gguf_io import BLOCK, GGMLType, Tensor, dequantize
from powerinfer_cli.gguf_io.encoders import BY_GRID, Fit, encode

__all__ = ["FLOATS", "DownType", "Width", "down_bytes", "down_loss", "down_type"]

FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)
SAMPLE = 1 << 18  # numbers by which a loss is judged
WIDE = 2048  # n_embd of models of a billion weights and more, which Q6_K costs less than the small ones
_SHORT_ROWS = {  # in place of super-blocks where rows are no whole ones: the next wider type, as llama.cpp has it
    GGMLType.Q2_K: GGMLType.Q4_0,
    GGMLType.Q3_K: GGMLType.IQ4_NL,
    GGMLType.IQ4_XS: GGMLType.IQ4_NL,
    GGMLType.Q4_K: GGMLType.Q5_0,
    GGMLType.Q5_K: GGMLType.Q5_1,
    GGMLType.Q6_K: GGMLType.Q8_0,
}


class Width(StrEnum):
    """auto: as wide as it has to be to lose next to nothing; same: as the matrix was."""

    AUTO = "auto"
    SAME = "same"


DownType: TypeAlias = Width | GGMLType


def down_type(kind: GGMLType, n_embd: int, wanted: DownType = Width.AUTO) -> GGMLType:
    """What a down matrix [n_embd, n_ff] of a type becomes as [n_ff, n_embd]. Floats stay what they are, unless another
    type is asked for. Where rows of n_embd are no whole blocks it is a wider type.
    """
    if not isinstance(wanted, Width):
        return _fitting(wanted, n_embd)
    if kind in FLOATS or kind is GGMLType.F64:
        return kind if kind in FLOATS else GGMLType.F32
    if wanted is Width.SAME and kind in BY_GRID:
        return _fitting(kind, n_embd)
    narrow = n_embd >= WIDE and _bits(kind) <= _bits(GGMLType.Q6_K)
    return _fitting(GGMLType.Q6_K if narrow else GGMLType.Q8_0, n_embd)


def _fitting(kind: GGMLType, n_embd: int) -> GGMLType:
    if n_embd % BLOCK[kind][0] and kind in _SHORT_ROWS:
        kind = _SHORT_ROWS[kind]
    return GGMLType.F16 if n_embd % BLOCK[kind][0] else kind


def _bits(kind: GGMLType) -> float:
    size, n_bytes = BLOCK[kind]
    return 8 * n_bytes / size


def down_bytes(kind: GGMLType, n_embd: int, wanted: DownType = Width.AUTO) -> float:
    """Of a neuron's row of a down matrix that had a type, turned."""
    size, n_bytes = BLOCK[down_type(kind, n_embd, wanted)]
    return n_embd // size * n_bytes


def down_loss(down: Tensor, wanted: DownType = Width.AUTO, fit: Fit | None = None) -> float:
    """How far the numbers of a down matrix [n_embd, n_ff] move when it is turned: the root of their mean squared error
    by that of the numbers themselves, of some neurons here and there. 0 where they stay what they are.
    """
    n_embd, n_ff = down.shape
    kind = down_type(down.type, n_embd, wanted)
    if kind is down.type and kind in FLOATS:
        return 0.0
    size, n_bytes = BLOCK[down.type]
    n_blocks = n_ff // size
    count = max(1, min(n_blocks, SAMPLE // max(1, n_embd * size)))
    chosen = np.arange(count) * n_blocks // count
    stored = down.rows().reshape(n_embd, n_blocks, n_bytes)[:, chosen].reshape(n_embd, -1)
    before = np.ascontiguousarray(dequantize(stored, down.type).T)
    down.drop_pages(0, down.nbytes)
    moved = dequantize(encode(before, kind, fit=fit), kind) - before
    whole = float(np.square(before, dtype=np.float64).mean())
    return float(np.sqrt(np.square(moved, dtype=np.float64).mean() / whole)) if whole else 0.0
