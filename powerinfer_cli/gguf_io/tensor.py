"""A tensor as it lies in the file, and the part of a GGUF file that lists the tensors.

Format (GGUF specification): per tensor a name (string), the number of dimensions (u32), the dimensions (u64
each, innermost first), the type (u32) and the offset of the bytes from the start of the data part (u64).
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from powerinfer_cli.system.memory import drop_pages

from .cursor import Cursor
from .decoders import dequantize
from .failure import GGUFError, shown, shown_path
from .types import BLOCK, INDEX_FILE_TYPES, REMOVED_TYPES, GGMLType

__all__ = ["LONGEST_NAME", "MOST_DIMENSIONS", "Tensor", "TensorInfo", "place_tensors", "read_tensor_infos"]

LONGEST_NAME = 63
MOST_DIMENSIONS = 4
MOST_TENSORS = 1 << 18
_LARGEST_COUNT = 2**60 - 1
_SMALLEST_ENTRY = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor. `data` is a read-only view of the mapped file and keeps the map alive."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    """NumPy order: rows first. (GGUF stores it reversed.)"""
    data: npt.NDArray[np.uint8]
    """[nbytes]"""
    path: Path | None = None
    """The file that it lies in, for messages."""

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    @property
    def n_elements(self) -> int:
        return prod(self.shape)

    @property
    def n_rows(self) -> int:
        """All the leading dimensions as one."""
        return prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Bytes of one innermost row."""
        block_size, block_bytes = BLOCK[self.type]
        return self.shape[-1] // block_size * block_bytes

    def rows(self) -> npt.NDArray[np.uint8]:
        """[n_rows, row_bytes]. A view, no copy."""
        return self.data.reshape(self.n_rows, self.row_bytes)

    @property
    def has_rows(self) -> bool:
        """Whether each row lies in a file as it is, so that a few cost no more than a few."""
        return True

    def take(self, numbers: npt.NDArray[np.integer], out: npt.NDArray[np.uint8]) -> None:
        """Copy rows, by their numbers, to [count, row_bytes]."""
        np.take(self.rows(), numbers, axis=0, out=out, mode="clip")  # else numpy copies twice

    def kept(self) -> "Tensor":
        """The same, with bytes that are there once for all: see MadeTensor."""
        return self

    def drop_pages(self, begin: int, end: int) -> None:
        """Let the system have back the memory of these bytes of a mapped file; reading them gets them anew."""
        file = _map_of(self.data)
        if file is None or end <= begin:
            return
        address = np.frombuffer(file, np.uint8).ctypes.data
        start = self.data.ctypes.data - address
        first = (start + begin) // mmap.PAGESIZE * mmap.PAGESIZE
        drop_pages(file, first, start + end - first, address)

    def to_float32(self) -> npt.NDArray[np.float32]:
        """The numbers, in `shape`. GGUFError if the type stores no weights (I8, Q8_K, ...)."""
        try:
            return dequantize(self.rows(), self.type).reshape(self.shape)
        except GGUFError as error:
            where = "" if self.path is None else f"{shown_path(self.path)}: "
            raise GGUFError(f"{where}the tensor {shown(self.name)}: {error}") from error


def _map_of(data: npt.NDArray[np.uint8]) -> mmap.mmap | None:
    """The map that an array is a view of, if any."""
    owner: object = data
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    return owner if isinstance(owner, mmap.mmap) else None


@dataclass(frozen=True)
class TensorInfo:
    """What the file says of a tensor; `start` counts from the data part's first byte."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    start: int
    nbytes: int


def read_tensor_infos(cursor: Cursor, count: int, index_file: bool) -> Iterator[TensorInfo]:
    """`count` entries, one by one; in an `index_file` (`.gpuidx`) three type numbers have their meaning of 2023."""
    cursor.need_items(count, _SMALLEST_ENTRY, "tensors", MOST_TENSORS)
    names: set[str] = set()
    for i in range(count):
        start = cursor.pos
        info = _read_info(cursor, i, index_file)
        if info.name in names:
            raise cursor.error(f"the tensor {shown(info.name)} is there twice", start)
        names.add(info.name)
        yield info


def _read_info(cursor: Cursor, i: int, index_file: bool) -> TensorInfo:
    name = cursor.string(f"the name of tensor {i}", LONGEST_NAME)
    what = f"the tensor {shown(name)}"
    start = cursor.pos
    n_dims = cursor.u32(f"the number of dimensions of {what}")
    if not 1 <= n_dims <= MOST_DIMENSIONS:
        raise cursor.error(f"{what} has {n_dims} dimensions, but 1 to {MOST_DIMENSIONS} are possible", start)
    shape = tuple(cursor.u64(f"a dimension of {what}") for _ in range(n_dims))[::-1]
    kind = _read_type(cursor, what, index_file)
    block_size, block_bytes = BLOCK[kind]
    if shape[-1] % block_size:
        raise cursor.error(f"{what} has rows of {shape[-1]}, but {kind.name} comes in blocks of {block_size}", start)
    nbytes = prod(shape) // block_size * block_bytes
    # The product of any dimensions must fit, or a single 0 would hide the others.
    if prod(max(n, 1) for n in shape) > _LARGEST_COUNT or nbytes > _LARGEST_COUNT:
        raise cursor.error(f"{what} has the shape {shape}, which is more than any file can hold", start)
    return TensorInfo(name, kind, shape, cursor.u64(f"the offset of {what}"), nbytes)


def _read_type(cursor: Cursor, what: str, index_file: bool) -> GGMLType:
    start = cursor.pos
    number = cursor.u32(f"the type of {what}")
    if index_file and number in INDEX_FILE_TYPES:
        return INDEX_FILE_TYPES[number]
    if number in REMOVED_TYPES:
        raise cursor.error(
            f"{what} has the type {REMOVED_TYPES[number]}, which ggml has removed: convert the model anew", start
        )
    try:
        return GGMLType(number)
    except ValueError:
        raise cursor.error(f"{what} has the type {number}, which is none of ggml's", start) from None


def place_tensors(cursor: Cursor, infos: list[TensorInfo], alignment: int) -> dict[str, Tensor]:
    """Views of the tensors' bytes. They must be aligned, inside the file, and apart from each other."""
    if not infos:
        return {}
    base = -(-cursor.pos // alignment) * alignment
    _check_places(cursor, infos, base, alignment)
    file = np.frombuffer(cursor.buffer, np.uint8)
    tensors: dict[str, Tensor] = {}
    for info in infos:
        data = file[base + info.start :][: info.nbytes]
        tensors[info.name] = Tensor(info.name, info.type, info.shape, data, cursor.path)
    return tensors


def _check_places(cursor: Cursor, infos: list[TensorInfo], base: int, alignment: int) -> None:
    previous: TensorInfo | None = None
    for info in sorted(infos, key=lambda info: (info.start, info.nbytes)):
        what = f"the tensor {shown(info.name)}"
        start = base + info.start
        if info.start % alignment:
            raise cursor.error(
                f"{what} is at offset {info.start}, which is no multiple of the alignment {alignment}", start
            )
        # An empty tensor (a layer with no hot neurons has one) may stand behind padding that was never written.
        room = cursor.size if info.nbytes else cursor.size + alignment
        if start + info.nbytes > room:
            end = start + info.nbytes
            raise cursor.error(
                f"{what} ends at byte {end}, but the file has only {cursor.size} bytes: cut short?", start
            )
        if previous is not None and previous.start + previous.nbytes > info.start:
            raise cursor.error(f"{what} overlaps the tensor {shown(previous.name)}", start)
        previous = info
