"""Tensors that a file does not have as such: parts of one that it has, as views; and weights that change nothing."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import BLOCK, GGMLType, MadeTensor, Tensor
from powerinfer_cli.model.blocks import FFN, Activation, Everything, Linear, Neurons

__all__ = ["columns", "cut", "first_row", "no_ffn", "ones", "scaled"]


def ones(n: int) -> Tensor:
    """The weights [n] of a norm that has none."""
    return Tensor("ones", GGMLType.F32, (n,), np.ones(n, np.float32).view(np.uint8))


def no_ffn(n_embd: int) -> FFN[Tensor, Tensor]:
    """Of a layer that is a mixer alone: no neurons."""
    up, down = (
        Linear[Tensor, Tensor](Tensor("none", GGMLType.F32, shape, np.empty(0, np.uint8)), None)
        for shape in ((0, n_embd), (n_embd, 0))
    )
    return FFN(Neurons(0, None, up, down, transposed=False, activation=Activation.SILU), Everything())


def scaled(vector: Tensor, factor: float) -> Tensor:
    """A copy of a vector, times a factor."""
    numbers = (vector.to_float32() * np.float32(factor)).astype(np.float32)
    return Tensor(f"{vector.name} * {factor:g}", GGMLType.F32, vector.shape, numbers.reshape(-1).view(np.uint8))


def cut(whole: Linear[Tensor, Tensor], *borders: int) -> list[Linear[Tensor, Tensor]]:
    """A fused projection by its rows, between borders."""
    return [
        Linear(_rows(whole.weight, begin, end), None if whole.bias is None else _rows(whole.bias, begin, end))
        for begin, end in pairwise(borders)
    ]


def columns(tensor: Tensor, begin: int, end: int) -> Tensor:
    """Some columns of a matrix; as float32 where its blocks reach over their borders."""
    name, shape = f"{tensor.name}[:, {begin}:{end}]", (tensor.shape[0], end - begin)
    n, n_bytes = BLOCK[tensor.type]
    whole = begin % n == end % n == 0
    kind, part = (tensor.type, slice(begin // n * n_bytes, end // n * n_bytes)) if whole else (GGMLType.F32, slice(0))

    def make() -> npt.NDArray[np.uint8]:
        if whole:
            return tensor.rows()[:, part].copy()
        return tensor.to_float32()[:, begin:end].copy().view(np.uint8)

    return MadeTensor(name, kind, shape, make, tensor.path)


def first_row(matrix: Tensor) -> Tensor:
    """As a vector."""
    row = _rows(matrix, 0, 1)
    return replace(row, shape=row.shape[1:])


def _rows(tensor: Tensor, begin: int, end: int) -> Tensor:
    """Rows of a matrix, or elements of a vector, as a view."""
    unit, rest = divmod(tensor.nbytes, tensor.shape[0])
    if rest:
        raise PowerInferError(f"tensor {tensor.name} of type {tensor.type.name} cannot be cut by rows")
    shape = (end - begin, *tensor.shape[1:])
    return replace(
        tensor, name=f"{tensor.name}[{begin}:{end}]", shape=shape, data=tensor.data[begin * unit : end * unit]
    )
