"""float32 to stored bytes, by the `gguf` package."""

import numpy as np
import numpy.typing as npt

from .failure import GGUFError
from .types import BLOCK, GGMLType

__all__ = ["quantize"]

LARGEST_HALF = 65504.0
_WIDE_TYPES = (GGMLType.F32, GGMLType.BF16)


def quantize(x: npt.NDArray[np.float32], kind: GGMLType) -> npt.NDArray[np.uint8]:
    """Numbers [..., n_cols] to bytes [..., row_bytes]. GGUFError where the type or a number does not allow it."""
    import gguf

    block_size, block_bytes = BLOCK[kind]
    x = np.ascontiguousarray(x, np.float32)
    if x.ndim == 0 or x.shape[-1] % block_size:
        raise GGUFError(
            f"an array of shape {x.shape} cannot be {kind.name}: its rows are no whole blocks of {block_size}"
        )
    if kind not in _WIDE_TYPES and not (np.abs(x) <= LARGEST_HALF).all():
        raise GGUFError(f"numbers beyond {LARGEST_HALF:g} or not finite cannot be stored as {kind.name}")
    shape = (*x.shape[:-1], x.shape[-1] // block_size * block_bytes)
    if x.size == 0:
        return np.empty(shape, np.uint8)
    try:
        with np.errstate(all="ignore"):
            stored = gguf.quants.quantize(x, gguf.GGMLQuantizationType(kind))
    except (NotImplementedError, ValueError) as error:
        raise GGUFError(f"numbers cannot be quantised to {kind.name}: the gguf package only reads it") from error
    return np.ascontiguousarray(stored).view(np.uint8).reshape(shape)
