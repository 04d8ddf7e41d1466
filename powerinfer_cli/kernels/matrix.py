"""A weight matrix as the kernels see it: products with all rows, or with chosen rows, in float32."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch

from powerinfer_cli.gguf_io import GGMLType, Tensor, dequantize

__all__ = ["Matrix", "to_float32"]

CHUNK_ELEMENTS = 1 << 22  # dequantised at a time: 16 MiB of float32


def to_float32(tensor: Tensor) -> torch.Tensor:
    """The whole tensor in float32: a view of the mapped file where it holds float32, else a copy."""
    if tensor.type is not GGMLType.F32:
        return torch.from_numpy(tensor.to_float32())
    with warnings.catch_warnings():
        # torch has no read-only tensors; nothing here writes to weights.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(tensor.data.view(np.float32)).reshape(tensor.shape)


class Matrix:
    """[n_rows, n_cols] weights of any type. `resident` keeps a float32 copy; otherwise rows are dequantised on use.

    Both ways go through the same products of the same chunks of rows, so that results do not depend on the choice.
    """

    def __init__(self, tensor: Tensor, *, resident: bool) -> None:
        tensor = tensor.kept()
        self.n_rows, self.n_cols = tensor.shape
        self._bytes = tensor.rows()
        self._type = tensor.type
        self._chunk = max(1, CHUNK_ELEMENTS // self.n_cols)
        self._resident = to_float32(tensor) if resident or tensor.type is GGMLType.F32 else None

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, n_cols] -> x @ W.T [T, n_rows]"""
        if self.n_rows <= self._chunk:
            return x @ self._slice(0, self.n_rows).T
        return torch.cat([x @ chunk.T for chunk in self._chunks()], dim=-1)

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """The chosen rows, float32 [len(indices), n_cols]; indices int64."""
        if self._resident is not None:
            return self._resident.index_select(0, indices)
        return torch.from_numpy(dequantize(self._bytes[indices.numpy()], self._type))

    def _chunks(self) -> Iterator[torch.Tensor]:
        for start in range(0, self.n_rows, self._chunk):
            yield self._slice(start, min(start + self._chunk, self.n_rows))

    def _slice(self, start: int, stop: int) -> torch.Tensor:
        if self._resident is not None:
            return self._resident[start:stop]
        return torch.from_numpy(dequantize(self._bytes[start:stop], self._type))
