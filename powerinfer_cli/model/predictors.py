"""Predictor directories: for each layer `model_N.pt` with the two matrices of its predictor, and a `config.json`.

Each .pt is what `torch.save` makes of {"fc1.weight": [rank, n_embd], "fc2.weight": [n_ff, rank]}, as the original
PowerInfer's tools write and read it. The matrices stay in their files until they are used.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, Tensor, dequantize
from powerinfer_cli.number_files import is_whole, layer_files, load_torch

__all__ = ["LayerPredictor", "Predictors", "load_predictors"]

CONFIG = "config.json"
FC1, FC2 = "fc1.weight", "fc2.weight"
MOST_RANK = 1 << 14
LARGEST = 65504.0  # a float16: predictors are stored in types that have such scales
_OVERHEAD = 1 << 20  # bytes of a file that are not numbers
_CONFIG_BYTES = 1 << 20
_CHECKED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class LayerPredictor:
    """fc1 [rank, n_embd], fc2 [n_ff, rank], of float types."""

    fc1: Tensor
    fc2: Tensor


@dataclass(frozen=True)
class Predictors:
    """One a layer. A neuron is let through where its logit, fc2 @ relu(fc1 @ x), is at least the threshold."""

    layers: tuple[LayerPredictor, ...]
    threshold: float = 0.0

    @classmethod
    def of(
        cls, pairs: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]], threshold: float = 0.0
    ) -> "Predictors":
        """From arrays (fc1, fc2), one pair a layer."""
        layers = (LayerPredictor(_of_array(FC1, fc1), _of_array(FC2, fc2)) for fc1, fc2 in pairs)
        return cls(tuple(layers), threshold)


def _of_array(name: str, array: npt.NDArray[np.float32]) -> Tensor:
    numbers = np.ascontiguousarray(array, np.float32)
    return Tensor(name, GGMLType.F32, numbers.shape, numbers.view(np.uint8).reshape(-1))


def load_predictors(folder: Path, n_embd: int, n_ff: Sequence[int]) -> Predictors:
    """Read a predictor directory for a model whose layers have so many neurons. Nothing in it is executed.

    Raises:
        PowerInferError: a layer without its file, a predictor of another model, numbers that are none, or files that
            are not what they should be; the message names the file.
    """
    paths = layer_files(folder, "model", len(n_ff), "predictors")
    layers = tuple(_load_layer(path, n_embd, neurons) for path, neurons in zip(paths, n_ff, strict=True))
    return Predictors(layers, _threshold(folder / CONFIG))


def _threshold(path: Path) -> float:
    """As the original: without the file, or its entry, 0."""
    try:
        if path.stat().st_size > _CONFIG_BYTES:
            raise PowerInferError(f"{path}: too large for a predictor's settings")
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 0.0
    except OSError as error:
        raise PowerInferError(f"{path}: cannot read the predictor's settings: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PowerInferError(f"{path}: the predictor's settings are not JSON") from error
    value = settings.get("sparse_threshold") if isinstance(settings, dict) else math.nan
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise PowerInferError(f"{path}: sparse_threshold is not a number")
    return float(value)


def _load_layer(path: Path, n_embd: int, n_ff: int) -> LayerPredictor:
    matrices = _load_matrices(path, _OVERHEAD + MOST_RANK * (n_embd + n_ff) * 8)
    fc1, fc2 = (_tensor(path, name, matrices[name]) for name in (FC1, FC2))
    rank = fc1.shape[0]
    if not 1 <= rank <= MOST_RANK or fc1.shape != (rank, n_embd) or fc2.shape != (n_ff, rank):
        shapes = " and ".join(" x ".join(map(str, tensor.shape)) for tensor in (fc1, fc2))
        raise PowerInferError(
            f"{path}: a predictor of another model: matrices of {shapes} "
            f"instead of rank x {n_embd} and {n_ff} x the same rank"
        )
    for tensor in (fc1, fc2):
        _check_numbers(path, tensor)
    return LayerPredictor(fc1, fc2)


def _load_matrices(path: Path, most_bytes: int) -> dict[str, Any]:
    """Of the file's dictionary; its numbers are left in the file, mapped into memory."""
    found = load_torch(path, most_bytes, "a saved predictor of this model")
    if not isinstance(found, dict) or set(found) != {FC1, FC2}:
        raise PowerInferError(f"{path}: not a saved predictor: it must hold {FC1} and {FC2}, and nothing else")
    return found


def _tensor(path: Path, name: str, value: Any) -> Tensor:
    """A matrix as it lies in the file."""
    import torch

    types = {torch.float16: GGMLType.F16, torch.bfloat16: GGMLType.BF16, torch.float32: GGMLType.F32}
    if not is_whole(value) or not value.is_floating_point() or value.ndim != 2:
        raise PowerInferError(f"{path}: {name} is not a matrix of floating-point numbers")
    value = value if value.dtype in types else value.float()
    data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return Tensor(name, types[value.dtype], tuple(value.shape), data, path)


def _check_numbers(path: Path, tensor: Tensor) -> None:
    step = max(1, _CHECKED_AT_ONCE // tensor.shape[1])
    rows = tensor.rows()
    for begin in range(0, len(rows), step):
        part = rows[begin : begin + step]
        if not (np.abs(dequantize(part, tensor.type)) <= LARGEST).all():
            raise PowerInferError(f"{path}: {tensor.name} has numbers that are not finite, or beyond {LARGEST:g}")
