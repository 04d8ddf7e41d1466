"""The key-value part of a GGUF file.

Format (GGUF specification): a key is a string; then a u32 value type; then the value. An array is a u32 item
type, a u64 count, then the items; an array's items may be arrays.
"""

import struct
from collections.abc import Iterator
from typing import TypeAlias, Union

import numpy as np
import numpy.typing as npt

from .cursor import Cursor
from .failure import shown
from .strings import Strings
from .types import ValueType

__all__ = ["MetaValue", "read_entries", "read_metadata"]

MetaValue: TypeAlias = Union[bool, int, float, str, npt.NDArray[np.generic], Strings, "list[MetaValue]"]

LONGEST_KEY = 65535
MOST_ENTRIES = 1 << 16
DEEPEST_ARRAY = 4
MOST_INNER_ARRAYS = 1 << 16
_SMALLEST_ENTRY = 8 + 1 + 4 + 1
_SMALLEST_ARRAY = 4 + 8

_SCALARS: dict[ValueType, tuple[struct.Struct, np.dtype[np.generic]]] = {
    ValueType.UINT8: (struct.Struct("<B"), np.dtype("<u1")),
    ValueType.INT8: (struct.Struct("<b"), np.dtype("<i1")),
    ValueType.UINT16: (struct.Struct("<H"), np.dtype("<u2")),
    ValueType.INT16: (struct.Struct("<h"), np.dtype("<i2")),
    ValueType.UINT32: (struct.Struct("<I"), np.dtype("<u4")),
    ValueType.INT32: (struct.Struct("<i"), np.dtype("<i4")),
    ValueType.FLOAT32: (struct.Struct("<f"), np.dtype("<f4")),
    ValueType.BOOL: (struct.Struct("<B"), np.dtype("<u1")),
    ValueType.UINT64: (struct.Struct("<Q"), np.dtype("<u8")),
    ValueType.INT64: (struct.Struct("<q"), np.dtype("<i8")),
    ValueType.FLOAT64: (struct.Struct("<d"), np.dtype("<f8")),
}


def read_metadata(cursor: Cursor, count: int) -> tuple[dict[str, MetaValue], dict[str, ValueType]]:
    """`count` keys with their values, and with the types that the file gives them."""
    values: dict[str, MetaValue] = {}
    types: dict[str, ValueType] = {}
    for key, kind, value in read_entries(cursor, count):
        values[key], types[key] = value, kind
    return values, types


def read_entries(cursor: Cursor, count: int) -> Iterator[tuple[str, ValueType, MetaValue]]:
    """The entries one by one: while one is at hand, the cursor stands behind it."""
    cursor.need_items(count, _SMALLEST_ENTRY, "metadata entries", MOST_ENTRIES)
    seen: set[str] = set()
    for i in range(count):
        start = cursor.pos
        key = cursor.string(f"the key of metadata entry {i}", LONGEST_KEY)
        if not key:
            raise cursor.error(f"metadata entry {i} has an empty key", start)
        if key in seen:
            raise cursor.error(f"the metadata key {shown(key)} is there twice", start)
        seen.add(key)
        what = f"the metadata value {shown(key)}"
        kind = _read_type(cursor, what)
        yield key, kind, _read_value(cursor, kind, what)


def _read_type(cursor: Cursor, what: str) -> ValueType:
    start = cursor.pos
    number = cursor.u32(f"the type of {what}")
    try:
        return ValueType(number)
    except ValueError:
        raise cursor.error(f"{what} has the type {number}, which GGUF does not know", start) from None


def _read_value(cursor: Cursor, kind: ValueType, what: str) -> MetaValue:
    if kind is ValueType.STRING:
        return cursor.string(what)
    if kind is ValueType.ARRAY:
        return _read_array(cursor, what, 1)
    layout, _ = _SCALARS[kind]
    start = cursor.need(layout.size, what)
    value: int | float = layout.unpack_from(cursor.buffer, start)[0]
    if kind is not ValueType.BOOL:
        return value
    if value > 1:
        raise cursor.error(f"{what} is a bool, but its byte is {value}, neither 0 nor 1", start)
    return bool(value)


def _read_array(cursor: Cursor, what: str, depth: int) -> MetaValue:
    if depth > DEEPEST_ARRAY:
        raise cursor.error(f"{what} has arrays within arrays more than {DEEPEST_ARRAY} deep")
    kind = _read_type(cursor, what)
    count = cursor.u64(f"the length of {what}")
    if kind is ValueType.STRING:
        return cursor.strings(count, what)
    if kind is ValueType.ARRAY:
        cursor.need_items(count, _SMALLEST_ARRAY, f"arrays in {what}", MOST_INNER_ARRAYS - cursor.inner_arrays)
        cursor.inner_arrays += count
        return [_read_array(cursor, what, depth + 1) for _ in range(count)]
    return _read_numbers(cursor, kind, count, what)


def _read_numbers(cursor: Cursor, kind: ValueType, count: int, what: str) -> npt.NDArray[np.generic]:
    """A read-only array of the file's own number type, in memory of its own."""
    _, dtype = _SCALARS[kind]
    cursor.need_items(count, dtype.itemsize, f"numbers in {what}")
    start = cursor.pos
    numbers = np.frombuffer(cursor.take(count * dtype.itemsize, what), dtype)
    if kind is not ValueType.BOOL:
        return numbers
    wrong = np.flatnonzero(numbers > 1)
    if wrong.size:
        raise cursor.error(f"{what} is an array of bools, but a byte in it is neither 0 nor 1", start + int(wrong[0]))
    return numbers.view(np.bool_)
