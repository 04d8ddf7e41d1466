"""How much each column of a matrix matters: importance matrices, in llama.cpp's two file formats.

GGUF (`general.type` is `imatrix`): for a matrix NAME two float32 tensors, `NAME.in_sum2` [experts, columns], the sums
of squared inputs, and `NAME.counts` [experts, 1], of how many tokens; `imatrix.datasets`, `imatrix.chunk_count` and
`imatrix.chunk_size` say from what. The older one (`.dat`): int32 count of entries; each has an int32 length, the name,
an int32 number of calls, an int32 number of values, and float32 values that are multiplied by the calls; behind them
perhaps an int32 chunk count and the text's name.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, GGUFFile, WritableValue, map_file, open_gguf, shown, write_gguf

__all__ = ["Importance", "Sums", "read_importance", "write_importance"]

Floats = npt.NDArray[np.float32]

LARGEST = 1e20  # mean square: beyond it an encoder's sums overflow
MOST_NUMBERS = 1 << 29  # of all matrices together, which are in memory; a file with holes may claim any number
MOST_ENTRIES = 1 << 18
LONGEST_NAME = 1 << 10
LONGEST_DATASET = 1 << 16


@dataclass(frozen=True)
class Importance:
    """of: by a matrix's name, mean squared inputs [n_experts, n_cols]; of matrices without experts [1, n_cols]."""

    path: Path
    of: Mapping[str, Floats]
    n_chunks: int
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sums:
    """What a run collected for a matrix: sums of squared inputs [n_experts, n_cols], tokens counted [n_experts]."""

    squares: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def zeros(cls, n_experts: int, n_cols: int) -> "Sums":
        """To be added to."""
        return cls(np.zeros((n_experts, n_cols)), np.zeros(n_experts, np.int64))

    def add(self, squares: npt.NDArray[np.floating[Any]], counts: npt.NDArray[np.int64]) -> None:
        """Of further tokens."""
        self.squares[:] += squares
        self.counts[:] += counts


def read_importance(path: Path) -> Importance:
    """Raises PowerInferError: it cannot be read, is none, or has numbers that are not 0 to LARGEST."""
    data = map_file(path)
    found = _read_gguf(path) if data[:4] == b"GGUF" else _read_dat(_Reader(path, data))
    if not found.of:
        raise PowerInferError(f"{path}: holds no importance of any matrix")
    for name, values in found.of.items():
        if not ((values >= 0) & (values <= LARGEST)).all():
            raise PowerInferError(f"{path}: the importance of {shown(name)} has numbers that are not 0 to {LARGEST:g}")
    return found


def _read_gguf(path: Path) -> Importance:
    with open_gguf(path) as gguf:
        kind = gguf.metadata.get("general.type")
        names = [name.removesuffix(".in_sum2") for name in gguf.tensors if name.endswith(".in_sum2")]
        if kind != "imatrix" and not names:
            raise PowerInferError(f"{path}: is no importance matrix: make one with `powerinfer imatrix`")
        _check_count(path, sum(gguf.tensors[f"{name}.in_sum2"].n_elements for name in names))
        of = {name: _means(gguf, name) for name in names}
        datasets = gguf.get("imatrix.datasets", list, [])
        n_chunks = gguf.get("imatrix.chunk_count", int, 0)
        if not 0 <= n_chunks < 1 << 32:
            raise PowerInferError(f"{path}: imatrix.chunk_count is {n_chunks}")
    return Importance(path, of, n_chunks, tuple(str(one) for one in datasets))


def _check_count(path: Path, count: int) -> None:
    if count > MOST_NUMBERS:
        raise PowerInferError(f"{path}: claims {count} numbers, more than an importance matrix has")


def _means(gguf: GGUFFile, name: str) -> Floats:
    """Of experts that no token chose: 1, as llama.cpp has it."""
    sums, counts = gguf.tensors[f"{name}.in_sum2"], gguf.tensors.get(f"{name}.counts")
    if counts is None or {sums.type, counts.type} != {GGMLType.F32} or len(sums.shape) > 3:
        raise PowerInferError(f"{gguf.path}: the importance of {shown(name)} needs in_sum2 and counts of type F32")
    if not 0 < counts.n_elements <= sums.n_elements or sums.n_elements % counts.n_elements:
        raise PowerInferError(
            f"{gguf.path}: the importance of {shown(name)} has {sums.n_elements} sums and {counts.n_elements} counts"
        )
    n = counts.to_float32().reshape(-1, 1)
    if not (np.isfinite(n) & (n >= 0)).all():
        raise PowerInferError(
            f"{gguf.path}: the importance of {shown(name)} has counts that are negative or not finite"
        )
    with np.errstate(over="ignore"):
        means: Floats = np.divide(sums.to_float32().reshape(n.size, -1), np.where(n > 0, n, 1), dtype=np.float32)
    means[n[:, 0] == 0] = 1
    return means


def _read_dat(reader: "_Reader") -> Importance:
    of: dict[str, Floats] = {}
    total = 0
    for _ in range(reader.number("entries", MOST_ENTRIES)):
        name = reader.text(reader.number("bytes of a name", LONGEST_NAME))
        calls, count = reader.number("calls"), reader.number("values")
        total += count
        _check_count(reader.path, total)
        of[name] = (reader.floats(count) / np.float32(max(calls, 1))).reshape(1, -1)
    n_chunks = 0
    datasets: tuple[str, ...] = ()
    if reader.left:
        n_chunks = reader.number("chunks")
        datasets = (reader.text(reader.number("bytes of a name", LONGEST_DATASET)),) if reader.left else ()
    return Importance(reader.path, of, n_chunks, datasets)


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap | bytes) -> None:
        self.path, self.data, self.pos = path, data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.pos

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise PowerInferError(f"{self.path}: is no importance matrix, or cut short at byte {len(self.data)}")
        self.pos += count
        return self.data[self.pos - count : self.pos]

    def number(self, what: str, most: int = 2**31 - 1) -> int:
        found: int = struct.unpack("<i", self.take(4))[0]
        if not 0 <= found <= most:
            raise PowerInferError(f"{self.path}: is no importance matrix: {found} {what} at byte {self.pos - 4}")
        return found

    def text(self, count: int) -> str:
        return self.take(count).decode(errors="replace")

    def floats(self, count: int) -> Floats:
        return np.frombuffer(self.take(4 * count), "<f4").astype(np.float32)


def write_importance(path: Path, sums: Mapping[str, Sums], n_chunks: int, chunk_size: int, datasets: list[str]) -> None:
    """In the GGUF format. Raises PowerInferError: it cannot be written."""
    tensors = []
    for name, one in sums.items():
        n_experts, n_cols = one.squares.shape
        assert one.counts.shape == (n_experts,)
        tensors.append((f"{name}.in_sum2", one.squares.astype(np.float32).reshape(n_experts, n_cols), GGMLType.F32))
        tensors.append((f"{name}.counts", one.counts.astype(np.float32).reshape(n_experts, 1), GGMLType.F32))
    metadata: dict[str, WritableValue] = {
        "general.type": "imatrix",
        "imatrix.datasets": list(datasets),
        "imatrix.chunk_count": np.uint32(n_chunks),
        "imatrix.chunk_size": np.uint32(chunk_size),
    }
    write_gguf(path, arch="imatrix", metadata=metadata, tensors=tensors, sparse=False)
