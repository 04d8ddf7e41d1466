"""Arrays by name as bytes, and back with all bounds checked: contents of KV caches, states of recurrent layers."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.cluster.wires import Lost

__all__ = ["packed", "unpacked"]

TYPES = tuple(np.dtype(kind) for kind in ("<f4", "<f2", "i1", "u1", "<u2", "<i4"))
COUNT = struct.Struct("<I")
ENTRY = struct.Struct("<HBB")  # bytes of the name, type, dimensions
MOST_DIMENSIONS = 8

Named = Mapping[str, npt.NDArray[Any]]


def packed(arrays: Named) -> tuple[bytes | memoryview, ...]:
    """A directory of names, types and shapes; then the arrays."""
    directory = [COUNT.pack(len(arrays))]
    parts: list[memoryview] = []
    for name, array in arrays.items():
        encoded = name.encode()
        directory += [ENTRY.pack(len(encoded), TYPES.index(array.dtype), array.ndim), encoded]
        directory.append(struct.pack(f"<{array.ndim}Q", *array.shape))
        if array.size:
            parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return b"".join(directory), *parts


def unpacked(payload: bytes | bytearray | memoryview) -> dict[str, npt.NDArray[Any]]:
    """Raises Lost: these bytes are something else."""
    try:
        return _unpacked(memoryview(payload))
    except (struct.error, ValueError, IndexError, OverflowError, MemoryError) as error:
        raise Lost("sends arrays that are none") from error


def _unpacked(payload: memoryview) -> dict[str, npt.NDArray[Any]]:
    (count,), at = COUNT.unpack_from(payload), COUNT.size
    entries = []
    for _ in range(count):
        length, kind, n_dimensions = ENTRY.unpack_from(payload, at)
        at += ENTRY.size
        name = bytes(payload[at : at + length]).decode()
        at += length
        if n_dimensions > MOST_DIMENSIONS:
            raise ValueError(name)
        shape = struct.unpack_from(f"<{n_dimensions}Q", payload, at)
        at += 8 * n_dimensions
        entries.append((name, TYPES[kind], shape))
    found = {}
    for name, dtype, shape in entries:
        size = 1
        for n in shape:
            size *= n
        if size * dtype.itemsize > len(payload) - at:
            raise ValueError(name)
        found[name] = np.frombuffer(payload, dtype, size, at).reshape(shape)
        at += size * dtype.itemsize
    if at != len(payload):
        raise ValueError("bytes are left over")
    return found
