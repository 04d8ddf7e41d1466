"""Tensors that no file holds: their bytes are made of another tensor's when they are asked for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.system.cores import usable_cores

from .decoders import dequantize
from .encoders import Fit, encode
from .failure import GGUFError, shown, shown_path
from .tensor import Tensor
from .types import BLOCK, GGMLType

__all__ = ["MadeTensor", "chosen_rows", "renamed", "retyped", "transposed"]

AT_ONCE = 1 << 17  # numbers that a thread turns at a time; what is made of them stays in its cache
MOST_THREADS = 8
_UNITS: dict[GGMLType, type[Any]] = {GGMLType.F32: np.uint32, GGMLType.F16: np.uint16, GGMLType.BF16: np.uint16}

Bytes = npt.NDArray[np.uint8]


class MadeTensor(Tensor):
    """Its `data` is made whenever it is asked for, and not kept: a model's worth of them takes no memory by itself.

    Who reads the bytes more than once reads those of `kept()`.
    """

    def __init__(
        self, name: str, kind: GGMLType, shape: tuple[int, ...], make: Callable[[], Bytes], path: Path | None = None
    ) -> None:
        """`make`: the bytes, of any shape. `path`: of the file that they are made of, for messages."""
        self.__dict__.update(name=name, type=kind, shape=shape, path=path, _make=make)

    @property
    def data(self) -> Bytes:
        try:
            made: Bytes = self.__dict__["_make"]().reshape(-1)
        except GGUFError as error:
            where = "" if self.path is None else f"{shown_path(self.path)}: "
            raise GGUFError(f"{where}the tensor {shown(self.name)}: {error}") from error
        assert made.nbytes == self.nbytes
        return made

    @property
    def has_rows(self) -> bool:
        return False

    @property
    def nbytes(self) -> int:
        return self.n_rows * self.row_bytes

    def kept(self) -> Tensor:
        return Tensor(self.name, self.type, self.shape, self.data, self.path)

    def drop_pages(self, begin: int, end: int) -> None:
        """There are none."""

    def __repr__(self) -> str:
        return f"MadeTensor({self.name!r}, {self.type.name}, {self.shape})"


class _Chosen(MadeTensor):
    """Some rows of another tensor, or elements of a vector."""

    def __init__(self, tensor: Tensor, numbers: npt.NDArray[np.int32]) -> None:
        unit = tensor.row_bytes if len(tensor.shape) > 1 else tensor.nbytes // tensor.shape[0]

        def make() -> Bytes:
            found = tensor.data.reshape(-1, unit)[numbers]
            tensor.drop_pages(0, tensor.nbytes)
            return found

        super().__init__(tensor.name, tensor.type, (len(numbers), *tensor.shape[1:]), make, tensor.path)
        self.__dict__.update(_source=tensor, _numbers=numbers)

    @property
    def has_rows(self) -> bool:
        source: Tensor = self.__dict__["_source"]
        return source.has_rows

    def take(self, numbers: npt.NDArray[np.integer], out: Bytes) -> None:
        self.__dict__["_source"].take(self.__dict__["_numbers"][numbers], out)


def chosen_rows(tensor: Tensor, numbers: npt.NDArray[np.int32]) -> MadeTensor:
    """Some rows of a matrix, or elements of a vector, by their numbers; the system may have the others' memory back."""
    return _Chosen(tensor, numbers)


def renamed(tensor: Tensor, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """The same bytes, made no sooner than before; shape: where it is another one."""
    shape = tensor.shape if shape is None else shape
    if isinstance(tensor, MadeTensor):
        return MadeTensor(name, tensor.type, shape, lambda: tensor.data, tensor.path)
    return Tensor(name, tensor.type, shape, tensor.data, tensor.path)


def retyped(tensor: Tensor, kind: GGMLType, fit: Fit | None = None) -> MadeTensor:
    """The same numbers in another type; fit: as in `transposed`. Making it raises GGUFError where that cannot hold
    them.
    """

    def make() -> Bytes:
        if kind is tensor.type:
            return tensor.data.copy()
        numbers = tensor.to_float32().reshape(-1, tensor.shape[-1])
        return encode(numbers, kind, fit=fit, threads=_threads())

    return MadeTensor(tensor.name, kind, tensor.shape, make, tensor.path)


def transposed(tensor: Tensor, name: str, kind: GGMLType, fit: Fit | None = None) -> MadeTensor:
    """A matrix [n, m] of any type as [m, n] of another, turned by several threads, a part at a time.

    fit: what searches for the scales of quantised blocks, see `encoders.encode`. Making it raises GGUFError where
    `kind` cannot hold a number.
    """
    n_rows, n_cols = tensor.shape
    return MadeTensor(name, kind, (n_cols, n_rows), partial(_transpose, tensor, kind, fit), tensor.path)


def _transpose(tensor: Tensor, kind: GGMLType, fit: Fit | None) -> Bytes:
    n_rows, n_cols = tensor.shape
    block_size, block_bytes = BLOCK[kind]
    out = np.empty((n_cols, n_rows // block_size * block_bytes), np.uint8)
    unit = _UNITS.get(kind) if kind is tensor.type else None
    own_size, own_bytes = BLOCK[tensor.type]
    step = max(1, AT_ONCE // max(1, n_rows) // own_size) * own_size
    source = tensor.rows()

    def turn(begin: int) -> None:
        end = min(begin + step, n_cols)
        part = source[:, begin // own_size * own_bytes : end // own_size * own_bytes]
        if unit is not None:
            out[begin:end].view(unit)[:] = part.view(unit).T
        else:
            values = dequantize(part, tensor.type)
            out[begin:end] = encode(np.ascontiguousarray(values.T), kind, fit=fit)

    with ThreadPoolExecutor(_threads()) as pool:
        for done in [pool.submit(turn, begin) for begin in range(0, n_cols, step)]:
            done.result()
    tensor.drop_pages(0, tensor.nbytes)
    return out


def _threads() -> int:
    return min(MOST_THREADS, len(usable_cores()))
