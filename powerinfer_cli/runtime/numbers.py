"""A file's vectors, as norms, biases and scales, in the numbers that kernels read."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import Tensor, shown_name

__all__ = ["floats_of"]


def floats_of(tensor: Tensor) -> npt.NDArray[np.float32]:
    """Of the tensor's shape; they may lie in the file. Raises PowerInferError: a NaN. Infinite ones bias a router."""
    found = np.ascontiguousarray(tensor.to_float32(), np.float32)
    if np.isnan(found).any():
        raise PowerInferError(f"{tensor.path}: {shown_name(tensor.name)} holds a NaN: the file is damaged")
    return found
