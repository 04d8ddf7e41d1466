"""A vector as `torch.save` writes it, read without torch, which takes a second and 200 MB to load.

The file is a zip archive: `NAME/data.pkl`, a pickle that says type and shape, and `NAME/data/0`, the numbers. Nothing
is unpickled: the instructions either are those that torch 1.6 and newer write for a contiguous vector, or the file is
left to torch.
"""

import pickletools
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["plain_vector"]

MOST_PICKLE = 1 << 10  # bytes; torch writes some 150
STORAGES = {
    f"torch {name}Storage": np.dtype(kind)
    for name, kind in {
        "Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Byte": "u1",
    }.items()
}  # fmt: skip

INTEGER = ("BININT", "BININT1", "BININT2", "LONG1")
NOTES = ("BINPUT", "LONG_BINPUT", "MEMOIZE")  # for what is used again, which nothing is
# _rebuild_tensor_v2(storage("storage", TYPE, KEY, "cpu", LENGTH), OFFSET, (LENGTH,), (STRIDE,), False, OrderedDict())
WRITTEN = [
    *("PROTO", "GLOBAL", "MARK"),
    *("MARK", "BINUNICODE", "GLOBAL", "BINUNICODE", "BINUNICODE", "INTEGER", "TUPLE", "BINPERSID"),
    *("INTEGER", "INTEGER", "TUPLE1", "INTEGER", "TUPLE1", "NEWFALSE"),
    *("GLOBAL", "EMPTY_TUPLE", "REDUCE", "TUPLE", "REDUCE", "STOP"),
]


def plain_vector(path: Path, most_bytes: int) -> npt.NDArray[Any] | None:
    """The numbers [n] of such a file of no more than `most_bytes`; None where it is anything else, or damaged."""
    if sys.byteorder != "little":
        return None
    try:
        _expect(path.stat().st_size <= most_bytes)
        with zipfile.ZipFile(path) as archive:
            parts = {part.filename.partition("/")[2]: part for part in archive.infolist()}
            _expect(all(part.compress_type == zipfile.ZIP_STORED for part in parts.values()))
            _expect(parts["data.pkl"].file_size <= MOST_PICKLE)
            _expect(archive.read(parts["byteorder"]) == b"little")
            kind, key, length = _described(archive.read(parts["data.pkl"]))
            _expect(parts[f"data/{key}"].file_size == length * kind.itemsize)
            return np.frombuffer(archive.read(parts[f"data/{key}"]), kind)
    except Exception:  # zipfile and pickletools raise whatever damage provokes; torch will say what is wrong
        return None


def _expect(fine: bool) -> None:
    if not fine:
        raise ValueError("not as torch writes a vector")


def _described(pickle: bytes) -> tuple[np.dtype[Any], str, int]:
    """Type, name and length of the storage that is the whole vector. Raises ValueError or KeyError: it is not."""
    told = [(op.name, argument) for op, argument, _ in pickletools.genops(pickle) if op.name not in NOTES]
    _expect(["INTEGER" if name in INTEGER else name for name, _ in told] == WRITTEN)
    words = tuple(told[i][1] for i in (1, 4, 7, 17))
    _expect(words == ("torch._utils _rebuild_tensor_v2", "storage", "cpu", "collections OrderedDict"))
    storage, key, length, offset, shape, stride = (told[i][1] for i in (5, 6, 8, 11, 12, 14))
    _expect((offset, shape, stride) == (0, length, 1) and str(key).isdecimal())
    return STORAGES[str(storage)], str(key), int(str(length))
