"""Contexts that were saved: what `read_cells` of a backend gave, checked before any of it is put back."""

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime.context.pages import WindowPages

__all__ = ["Stored", "fitted", "layer_of", "saved_part"]

Stored: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""Arrays [positions, n_head_kv, ...] by LAYER.PART; parts are k and v, and k_scales and v_scales of q8_0. Layers
with a window may have the last positions only."""


def saved_part(stored: Stored, key: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """One of the arrays. Raises PowerInferError: it is missing, or not like this."""
    found = stored.get(key)
    if found is None or found.shape != shape or found.dtype != np.dtype(dtype):
        raise PowerInferError(f"a saved context is not for this model and these cache types: {key}")
    return found


def fitted(pages: WindowPages | None, windowed: Collection[int], n: int, stored: Stored) -> tuple[int, Stored]:
    """What of n saved tokens there is room for, and from which position on layers with a window have it.

    Raises PowerInferError: these layers have too little, or differ.
    """
    if pages is None:
        return 0, stored
    rows = min(n - pages.lowest(n), _windowed_rows(stored, windowed))
    if rows < n - pages.first(n):
        raise PowerInferError("a saved context is not for this model: it has less than its windows see")
    return n - rows, _last_rows(stored, windowed, rows)


def _windowed_rows(stored: Stored, windowed: Collection[int]) -> int:
    """How many positions the arrays of these layers have. Raises PowerInferError: not all as many."""
    found = {part.shape[0] if part.ndim else -1 for name, part in stored.items() if layer_of(name) in windowed}
    if len(found) != 1:
        raise PowerInferError("a saved context is not for this model: its layers with a window differ in length")
    return int(found.pop())


def _last_rows(stored: Stored, windowed: Collection[int], rows: int) -> Stored:
    """The last positions, so many, of these layers; of others all."""
    return {name: part[len(part) - rows :] if layer_of(name) in windowed else part for name, part in stored.items()}


def layer_of(name: str) -> int | None:
    """Whose an array is."""
    number = name.partition(".")[0]
    return int(number) if number.isdecimal() else None
