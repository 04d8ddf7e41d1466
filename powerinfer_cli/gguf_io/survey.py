"""What a GGUF file says of itself, as far as it can be read: for looking at any file, whole or broken."""

from dataclasses import dataclass, field
from pathlib import Path

from .cursor import Cursor
from .failure import GGUFError
from .magic import check_magic, check_version
from .metadata import MetaValue, read_entries
from .reader import map_file, open_gguf
from .tensor import TensorInfo, read_tensor_infos
from .types import INDEX_ARCHITECTURE, ValueType

__all__ = ["Entry", "Survey", "survey"]


@dataclass(frozen=True)
class Entry:
    """A value of the metadata, and its type in the file."""

    kind: ValueType
    value: MetaValue


@dataclass
class Survey:
    """Of one file. fault: why it was not read further, or cannot be opened; None where it is whole."""

    path: Path
    size: int = 0
    sparse: bool = False
    version: int = 0
    n_tensors: int = 0
    n_entries: int = 0
    metadata: dict[str, Entry] = field(default_factory=dict)
    tensors: list[TensorInfo] = field(default_factory=list)
    fault: str | None = None


def survey(path: Path) -> Survey:
    """Read the header of one file. Raises GGUFError where it is no GGUF file at all, or cannot be opened."""
    cursor = Cursor(map_file(path), path)
    found = Survey(path, cursor.size, check_magic(cursor))
    try:
        found.version = check_version(cursor)
        found.n_tensors = cursor.u64("the number of tensors")
        found.n_entries = cursor.u64("the number of metadata entries")
        for key, kind, value in read_entries(cursor, found.n_entries):
            found.metadata[key] = Entry(kind, value)
        arch = found.metadata.get("general.architecture")
        index_file = found.sparse and arch is not None and arch.value == INDEX_ARCHITECTURE
        for info in read_tensor_infos(cursor, found.n_tensors, index_file):
            found.tensors.append(info)
        open_gguf(path).close()  # where tensors lie, and other parts
    except GGUFError as error:
        found.fault = str(error)
    return found
