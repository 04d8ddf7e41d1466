"""From a type to the function that decodes its blocks; large tensors go through in pieces."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ..failure import GGUFError
from ..types import BLOCK, GGMLType
from . import few_levels, four_bit_floats, i_quants, k_quants, legacy

__all__ = ["DECODERS", "dequantize"]

Decoder = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]

DECODERS: Mapping[GGMLType, Decoder] = MappingProxyType(
    {
        **legacy.DECODERS,
        **k_quants.DECODERS,
        **i_quants.DECODERS,
        **four_bit_floats.DECODERS,
        **few_levels.DECODERS,
    }
)
"""Each takes blocks [n, block_bytes] and gives numbers [n, block_size]."""

NUMBERS_AT_ONCE = 1 << 17
"""So many that the temporaries of one piece stay in the processor's cache."""


def dequantize(data: npt.NDArray[np.uint8], kind: GGMLType) -> npt.NDArray[np.float32]:
    """Rows of bytes [n_rows, row_bytes] to numbers [n_rows, n_cols]."""
    decode = DECODERS.get(kind)
    if decode is None:
        raise GGUFError(f"numbers of type {GGMLType(kind).name} cannot be turned into float32")
    block_size, block_bytes = BLOCK[kind]
    n_rows, row_bytes = data.shape
    if row_bytes % block_bytes:
        raise GGUFError(f"rows of {row_bytes} bytes are no whole {kind.name} blocks of {block_bytes} bytes")
    blocks = np.ascontiguousarray(data).reshape(-1, block_bytes)
    result = np.empty((len(blocks), block_size), np.float32)
    step = NUMBERS_AT_ONCE // block_size
    # A block whose scale is infinite or no number is the file's business, not a reason to warn.
    with np.errstate(all="ignore"):
        for start in range(0, len(blocks), step):
            result[start : start + step] = decode(blocks[start : start + step])
    return result.reshape(n_rows, row_bytes // block_bytes * block_size)
