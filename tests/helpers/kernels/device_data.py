"""Operands for the kernels of devices."""

import numpy as np
import torch
from torch import Tensor

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.device import PlanarRows, to_planar
from powerinfer_cli.kernels.device import reference as twins
from powerinfer_cli.kernels.device.cache import cells_of
from powerinfer_cli.model import Activation
from powerinfer_cli.model.blocks import Linear, Neurons
from tests.helpers.kernels.weight_rows import gguf_rows
from tests.helpers.rounding import curve_of


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def rows_of(kind: GGMLType, n_rows: int, n_cols: int, seed: int = 0) -> tuple[PlanarRows, Tensor]:
    """Random rows, and their numbers."""
    raw = gguf_rows(kind, n_rows, n_cols, seed).view(np.uint8).reshape(n_rows, -1)
    rows = to_planar(torch.from_numpy(raw), kind, n_cols)
    return rows, twins.dequantize(rows)


def neurons_of(
    gate: PlanarRows | None,
    up: PlanarRows,
    down_t: PlanarRows,
    *,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    activation: Activation = Activation.RELU,
    relu_on_up: bool = False,
) -> twins.DeviceNeurons:
    """Neurons of such rows."""
    gates = None if gate is None else Linear(gate, gate_bias)
    ups, downs = Linear(up, up_bias), Linear(down_t, None)
    return Neurons(up.n_rows, gates, ups, downs, True, activation, relu_on_up, curve_of(activation))


def places(pages: Tensor, n_past: int, n_token: int) -> tuple[Tensor, Tensor]:
    """Positions and cells int64 [n_token] of tokens behind the first n_past of a sequence that has these pages."""
    cells = cells_of(pages, n_past + n_token)[n_past:]
    return torch.arange(n_past, n_past + n_token, device=pages.device), cells


def f32_rows(numbers: Tensor) -> PlanarRows:
    return PlanarRows(GGMLType.F32, *numbers.shape, numbers)
