"""Typed access to a GGUF's metadata, for the `tokenizer.*` keys. A wrong type is one clear line."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import Strings

__all__ = ["Metadata", "flag", "number_array", "string", "strings", "token_id", "whole_array"]

Metadata = Mapping[str, Any]


def _wrong(key: str, wanted: str, found: object) -> PowerInferError:
    return PowerInferError(f"the metadata value {key} should be {wanted}, but it is {type(found).__name__}")


def string(metadata: Metadata, key: str) -> str | None:
    """The str at `key`, None without one."""
    value = metadata.get(key)
    if value is None or isinstance(value, str):
        return value
    raise _wrong(key, "a string", value)


def flag(metadata: Metadata, key: str, default: bool) -> bool:
    """The bool at `key`."""
    value = metadata.get(key)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    raise _wrong(key, "a bool", value)


def token_id(metadata: Metadata, key: str) -> int | None:
    """The number at `key`, None without one. It may be out of the vocabulary's range."""
    value = metadata.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise _wrong(key, "a whole number", value)


def strings(metadata: Metadata, key: str) -> Strings | None:
    """The array of strings at `key`, None without one."""
    value = metadata.get(key)
    if value is None or isinstance(value, Strings):
        return value
    if not isinstance(value, Sequence) or isinstance(value, str) or not set(map(type, value)) <= {str}:
        raise _wrong(key, "an array of strings", value)
    return Strings.of(value)


def number_array(metadata: Metadata, key: str, count: int) -> npt.NDArray[Any] | None:
    """The first `count` numbers of the array at `key`, [count]; None without one. A shorter array is an error."""
    value = whole_array(metadata, key)
    if value is not None and len(value) < count:
        raise PowerInferError(f"the metadata array {key} has {len(value)} entries for {count} tokens")
    return None if value is None else value[:count]


def whole_array(metadata: Metadata, key: str) -> npt.NDArray[Any] | None:
    """All numbers of the array at `key`; None without one."""
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, list) and set(map(type, value)) <= {int, float}:
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "iuf":
        raise _wrong(key, "an array of numbers", value)
    return value
