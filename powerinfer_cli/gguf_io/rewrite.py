"""GGUF files whose tensors are made while they are written, piece by piece, never the whole in memory: anew, or as a
changed copy of another, whose metadata are taken byte by byte.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from powerinfer_cli.files import replacing

from .failure import GGUFError, shown
from .magic import DENSE, SPARSE
from .metadata import LONGEST_KEY, MOST_ENTRIES
from .reader import GGUFFile, raw_entries
from .tensor import LONGEST_NAME, MOST_TENSORS, Tensor
from .types import BLOCK, GGMLType, ValueType
from .writer import WritableValue, typed_value

__all__ = ["AddedValue", "StreamedTensor", "rewrite_gguf", "stream_gguf", "streamed"]

AddedValue = str | int | float | npt.NDArray[np.int32]
VERSION = 3
PIECE = 1 << 24  # bytes of an unchanged tensor written at a time


@dataclass(frozen=True)
class StreamedTensor:
    """A tensor of the new file; `pieces` makes its bytes, in order, when they are written. `shape` is rows first."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[npt.NDArray[np.uint8]]]

    @property
    def nbytes(self) -> int:
        block_size, block_bytes = BLOCK[self.type]
        return prod(self.shape) // block_size * block_bytes


def streamed(tensor: Tensor, name: str | None = None) -> StreamedTensor:
    """A tensor as it is, under another name perhaps. One that is to be made is made when it is written."""

    def pieces() -> Iterator[npt.NDArray[np.uint8]]:
        data = tensor.data
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]
            tensor.drop_pages(start, min(start + PIECE, len(data)))

    return StreamedTensor(name or tensor.name, tensor.type, tensor.shape, pieces)


def rewrite_gguf(
    source: GGUFFile,
    path: Path,
    *,
    dropped: tuple[str, ...],
    added: Mapping[str, AddedValue],
    tensors: Sequence[StreamedTensor],
    sparse: bool,
    part: Path | None = None,
    until: ExitStack | None = None,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write `path` with the metadata of `source`, less keys that begin with one of `dropped`, and with `tensors`.

    Values in `added` are stored as strings, UINT32, FLOAT32 or arrays of INT32, and take the place of those with the
    same key. part: of a split file that stays split, the one whose metadata are meant, with what they say of the parts.
    An old file stays whole until the new one is, and until `until` ends, if given. `on_bytes(done, of all)` tells of
    tensors' bytes.

    Raises:
        PowerInferError: the file cannot be written, or would not be one that can be read.
    """
    away = dropped if part else (*dropped, "split.")
    entries = [raw for key, raw in raw_entries(part or source.path) if not key.startswith(away) and key not in added]
    entries += [_entry(key, value) for key, value in added.items()]
    alignment = source.get("general.alignment", int, 32)
    _write(path, entries, tensors, sparse, alignment, until, on_bytes)


def stream_gguf(
    path: Path,
    *,
    metadata: Mapping[str, WritableValue],
    tensors: Sequence[StreamedTensor],
    sparse: bool,
    until: ExitStack | None = None,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a file of these keys and tensors; all else as `rewrite_gguf`."""
    entries = [_any_entry(key, value) for key, value in metadata.items()]
    _write(path, entries, tensors, sparse, 32, until, on_bytes)


def _write(
    path: Path,
    entries: Sequence[bytes],
    tensors: Sequence[StreamedTensor],
    sparse: bool,
    alignment: int,
    until: ExitStack | None,
    on_bytes: Callable[[int, int], None],
) -> None:
    _check(entries, tensors)
    total, done = sum(tensor.nbytes for tensor in tensors), 0
    with ExitStack() as now, (until or now).enter_context(replacing(path, durable=True)).open("wb") as out:
        out.write(SPARSE if sparse else DENSE)
        out.write(struct.pack("<IQQ", VERSION, len(tensors), len(entries)))
        out.writelines(entries)
        out.writelines(_infos(tensors, alignment))
        for tensor in tensors:
            _pad(out, alignment)
            start = out.tell()
            for piece in tensor.pieces():
                out.write(np.ascontiguousarray(piece).data)
                done += piece.nbytes
                on_bytes(done, total)
            if out.tell() - start != tensor.nbytes:
                raise GGUFError(f"the tensor {shown(tensor.name)} came with {out.tell() - start} bytes")
        _pad(out, alignment)


def _check(entries: Sequence[bytes], tensors: Sequence[StreamedTensor]) -> None:
    names = {tensor.name for tensor in tensors}
    if len(names) != len(tensors) or len(tensors) > MOST_TENSORS or len(entries) > MOST_ENTRIES:
        raise GGUFError("the new file would have a tensor twice, or more tensors or metadata than a file may")
    for tensor in tensors:
        if len(tensor.name.encode()) > LONGEST_NAME:
            raise GGUFError(f"the tensor name {shown(tensor.name)} is longer than {LONGEST_NAME} bytes")
        if tensor.shape[-1] % BLOCK[tensor.type][0]:
            raise GGUFError(f"the tensor {shown(tensor.name)} has no rows of whole {tensor.type.name} blocks")


def _entry(key: str, value: AddedValue) -> bytes:
    assert len(key.encode()) <= LONGEST_KEY
    if isinstance(value, str):
        return _string(key) + struct.pack("<I", ValueType.STRING) + _string(value)
    if isinstance(value, np.ndarray):
        kinds = struct.pack("<IIQ", ValueType.ARRAY, ValueType.INT32, value.size)
        return _string(key) + kinds + value.astype("<i4").tobytes()
    if isinstance(value, int):
        return _string(key) + struct.pack("<II", ValueType.UINT32, value)
    return _string(key) + struct.pack("<If", ValueType.FLOAT32, value)


_LAYOUTS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}


def _any_entry(key: str, value: WritableValue) -> bytes:
    """The types are those of `write_gguf`."""
    kind, item_kind, plain = typed_value(key, value)
    head = _string(key) + struct.pack("<I", kind)
    if item_kind is None:
        return head + (_counted(plain) if kind is ValueType.STRING else struct.pack(f"<{_LAYOUTS[kind]}", plain))
    head += struct.pack("<IQ", item_kind, len(plain))
    if item_kind is ValueType.STRING:
        return head + b"".join(map(_counted, plain))
    return head + struct.pack(f"<{len(plain)}{_LAYOUTS[item_kind]}", *plain)


def _counted(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _string(text: str) -> bytes:
    raw = text.encode(errors="replace")  # names of files may be no UTF-8
    return struct.pack("<Q", len(raw)) + raw


def _infos(tensors: Iterable[StreamedTensor], alignment: int) -> Iterator[bytes]:
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        layout = f"<I{len(dims)}QIQ"
        yield _string(tensor.name) + struct.pack(layout, len(dims), *dims, tensor.type, offset)
        offset += -(-tensor.nbytes // alignment) * alignment


def _pad(out: BinaryIO, alignment: int) -> None:
    out.write(bytes(-out.tell() % alignment))
