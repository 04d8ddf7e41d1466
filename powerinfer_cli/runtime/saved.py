"""Contexts that were saved: what `read_cells` of a backend gave, checked before any of it is put back."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError

__all__ = ["Stored", "saved_part"]

Stored: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""Arrays [positions, n_head_kv, ...] by LAYER.PART; parts are k and v, and k_scales and v_scales of q8_0."""


def saved_part(stored: Stored, key: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """One of the arrays. Raises PowerInferError: it is missing, or not like this."""
    found = stored.get(key)
    if found is None or found.shape != shape or found.dtype != np.dtype(dtype):
        raise PowerInferError(f"a saved context is not for this model and these cache types: {key}")
    return found
