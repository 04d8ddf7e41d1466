"""Opening a GGUF file: its header, its checks, and the parts of a split one.

Format (GGUF specification): four bytes `GGUF` (`PWRI` for a sparse model with predictors), then version (u32), the
number of tensors (u64), the number of metadata entries (u64), the metadata, the tensor list, padding up to
`general.alignment`, the tensors' bytes. All little endian.
"""

import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, TypeVar, final, overload

import numpy as np

from powerinfer_cli.system.files import name_advice, open_to_map

from .cursor import Buffer, Cursor
from .failure import GGUFError, shown, shown_path
from .magic import check_magic, check_version
from .metadata import MetaValue, read_entries, read_metadata
from .split import check_not_joined, merge_parts, part_paths
from .strings import Strings
from .tensor import Tensor, place_tensors, read_tensor_infos
from .types import INDEX_ARCHITECTURE, ValueType

__all__ = ["GGUFFile", "map_file", "open_gguf", "raw_entries"]

DEFAULT_ALIGNMENT = 32

T = TypeVar("T")
D = TypeVar("D")


@final
class _Missing:
    """Says that `get` was given no default."""


MISSING: Final = _Missing()


class GGUFFile:
    """An open GGUF file. The map is released when the file is closed and the last view of a tensor is gone.

    As with every map: a file that another program shortens meanwhile ends this process when the lost part is read.
    """

    def __init__(
        self, path: Path, sparse: bool, version: int, metadata: Mapping[str, MetaValue], tensors: Mapping[str, Tensor]
    ) -> None:
        self.path = path
        self.sparse = sparse
        self.version = version
        self.metadata: Mapping[str, MetaValue] = MappingProxyType(dict(metadata))
        self._tensors: Mapping[str, Tensor] | None = MappingProxyType(dict(tensors))

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By name, in the file's order."""
        if self._tensors is None:
            raise GGUFError(f"{shown_path(self.path)}: the tensors of a closed file were asked for")
        return self._tensors

    @property
    def files(self) -> tuple[Path, ...]:
        """Itself, and the other parts of a split one, as far as they hold tensors."""
        parts = (tensor.path for tensor in self.tensors.values() if tensor.path is not None)
        return tuple(dict.fromkeys([self.path, *parts]))

    @overload
    def get(self, key: str, kind: type[T]) -> T: ...
    @overload
    def get(self, key: str, kind: type[T], default: D) -> T | D: ...
    def get(self, key: str, kind: type[T], default: D | _Missing = MISSING) -> T | D:
        """The value of `key`, which must be of `kind`: bool, int, float, str, list (any array) or np.ndarray."""
        value = self.metadata.get(key)
        if value is None:
            if isinstance(default, _Missing):
                raise GGUFError(f"{shown_path(self.path)}: the metadata has no {shown(key)}")
            return default
        if isinstance(value, Strings):
            value = list(value)
        if kind is list and isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
        found = type(value).__name__
        raise GGUFError(f"{shown_path(self.path)}: the metadata value {shown(key)} is {found}, not {kind.__name__}")

    def close(self) -> None:
        """Let go of the map. Views that are still in use stay valid; closing twice is fine."""
        self._tensors = None

    def __enter__(self) -> "GGUFFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_gguf(path: str | Path) -> GGUFFile:
    """Open a GGUF or PWRI file; any part of a split file opens all of it. GGUFError says what is wrong and where."""
    path = Path(path)
    file = _open_one(path)
    paths = part_paths(path, file.metadata)
    if paths is None:
        return file
    parts = [file if part == path else _open_one(part) for part in paths]
    first = parts[0]
    return GGUFFile(first.path, first.sparse, first.version, first.metadata, merge_parts(parts))


def _open_one(path: Path) -> GGUFFile:
    cursor = Cursor(map_file(path), path)
    sparse = check_magic(cursor)
    version = check_version(cursor)
    n_tensors = cursor.u64("the number of tensors")
    n_entries = cursor.u64("the number of metadata entries")
    metadata, types = read_metadata(cursor, n_entries)
    alignment = _alignment(cursor, metadata, types)
    index_file = sparse and metadata.get("general.architecture") == INDEX_ARCHITECTURE
    infos = list(read_tensor_infos(cursor, n_tensors, index_file))
    tensors = place_tensors(cursor, infos, alignment)
    if "split.count" in metadata:
        base = -(-cursor.pos // alignment) * alignment
        ends = [base + info.start + info.nbytes for info in infos]
        check_not_joined(cursor, max(ends, default=cursor.pos), alignment)
    return GGUFFile(path, sparse, version, metadata, tensors)


def raw_entries(path: Path) -> list[tuple[str, bytes]]:
    """The metadata of one file: each key, and the bytes of its entry, key and type and value. Raises GGUFError."""
    cursor = Cursor(map_file(path), path)
    check_magic(cursor)
    check_version(cursor)
    cursor.u64("the number of tensors")
    count = cursor.u64("the number of metadata entries")
    found, start = [], cursor.pos
    for key, _, _ in read_entries(cursor, count):
        found.append((key, bytes(cursor.buffer[start : cursor.pos])))
        start = cursor.pos
    return found


def map_file(path: Path) -> Buffer:
    """The file's bytes, mapped. The map outlives the descriptor."""
    try:
        descriptor = open_to_map(path)
    except (OSError, ValueError) as error:
        raise GGUFError(f"{shown_path(path)}: cannot be opened: {_reason(error)}{name_advice(path)}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
            raise GGUFError(f"{shown_path(path)}: is {kind}, not a GGUF file")
        if status.st_size == 0:
            raise GGUFError(f"{shown_path(path)}: the file is empty")
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise GGUFError(f"{shown_path(path)}: cannot be mapped into memory: {_reason(error)}") from error
    finally:
        os.close(descriptor)


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _alignment(cursor: Cursor, metadata: Mapping[str, MetaValue], types: Mapping[str, ValueType]) -> int:
    kind = types.get("general.alignment")
    if kind is None:
        return DEFAULT_ALIGNMENT
    alignment = metadata["general.alignment"]
    if kind is not ValueType.UINT32 or not isinstance(alignment, int):
        raise cursor.error(f"general.alignment must be of type UINT32, but it is {kind.name}")
    if alignment == 0 or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment is {alignment}, which is not a power of two")
    return alignment
