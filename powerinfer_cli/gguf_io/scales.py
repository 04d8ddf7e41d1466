"""Whether what a tensor's blocks are multiplied by are numbers, read without decoding any.

Layouts: `ggml-common.h`, as in `decoders`.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from .tensor import Tensor
from .types import BLOCK, GGMLType

__all__ = ["HALVES", "spoilt_row"]

HALVES: Mapping[GGMLType, tuple[int, ...]] = MappingProxyType(
    {
        GGMLType.F16: (0,),
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
        GGMLType.IQ2_XXS: (0,),
        GGMLType.IQ2_XS: (0,),
        GGMLType.IQ2_S: (0,),
        GGMLType.IQ3_XXS: (0,),
        GGMLType.IQ3_S: (0,),
        GGMLType.IQ1_S: (0,),
        GGMLType.IQ4_NL: (0,),
        GGMLType.IQ4_XS: (0,),
        GGMLType.TQ1_0: (52,),
        GGMLType.TQ2_0: (64,),
        GGMLType.Q1_0: (0,),
        GGMLType.Q2_0: (0,),
    }
)
"""Where in a block a scale or a minimum lies as float16; BF16 and F32 are looked at as they are, others not at all."""

_EXPONENTS = {GGMLType.F16: 0x7C00, GGMLType.BF16: 0x7F80}  # all ones: infinite, or no number
_AT_ONCE = 16 << 20  # bytes: their pages are dropped once they are read


def spoilt_row(tensor: Tensor) -> int | None:
    """The first row with a scale, or a number of 16 or 32 bits, that is infinite or none; None: there is no such row.

    A mapped tensor's pages do not stay in memory.
    """
    step = max(1, _AT_ONCE // max(1, tensor.row_bytes))
    for first in range(0, tensor.n_rows, step):
        rows = tensor.rows()[first : first + step]
        found = _spoilt(rows, tensor.type)
        tensor.drop_pages(first * tensor.row_bytes, (first + len(rows)) * tensor.row_bytes)
        if found is not None:
            return first + found
    return None


def _spoilt(rows: npt.NDArray[np.uint8], kind: GGMLType) -> int | None:
    if kind is GGMLType.F32:
        wrong = ~np.isfinite(rows.view(np.float32)).all(axis=1)
    elif kind is GGMLType.BF16 or kind in HALVES:
        block, bits = BLOCK[kind][1], _EXPONENTS.get(kind, _EXPONENTS[GGMLType.F16])
        heads = rows.reshape(len(rows), -1, block)
        wrong = np.zeros(len(rows), np.bool_)
        for at in HALVES.get(kind, (0,)):
            upper, lower = heads[:, :, at + 1], heads[:, :, at]
            high, low = np.uint8(bits >> 8), np.uint8(bits & 0xFF)
            wrong |= (((upper & high) == high) & ((lower & low) == low)).any(axis=1)
    else:
        return None
    return int(wrong.argmax()) if wrong.any() else None
