"""Operands for the kernels of devices."""

import numpy as np
import torch
from torch import Tensor

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.device import PlanarRows, to_planar
from powerinfer_cli.kernels.device import reference as twins
from tests.helpers.weight_rows import gguf_rows


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def rows_of(kind: GGMLType, n_rows: int, n_cols: int, seed: int = 0) -> tuple[PlanarRows, Tensor]:
    """Random rows, and their numbers."""
    raw = gguf_rows(kind, n_rows, n_cols, seed).view(np.uint8).reshape(n_rows, -1)
    rows = to_planar(torch.from_numpy(raw), kind, n_cols)
    return rows, twins.dequantize(rows)


def f32_rows(numbers: Tensor) -> PlanarRows:
    return PlanarRows(GGMLType.F32, *numbers.shape, numbers)
