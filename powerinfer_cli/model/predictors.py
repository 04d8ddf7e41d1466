"""Predictor directories: `model_N.pt` with the two matrices of layer N's predictor, and a `config.json`.

Each .pt is what `torch.save` makes of {"fc1.weight": [rank, n_embd], "fc2.weight": [n_ff, rank]}, as the original
PowerInfer's tools write and read it. The matrices stay in their files until they are used.

config.json: {"sparse_threshold": number, "dense_layers": [N, ...]}. `dense_layers`, which is ours, names the layers
that have no file, because no predictor pays there: they run dense. All other layers have theirs.
"""

import json
import math
from collections.abc import Collection, Sequence
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
    """One a layer; None: the layer runs dense. A neuron is let through where its logit, fc2 @ relu(fc1 @ x), is at
    least the threshold.
    """

    layers: tuple[LayerPredictor | None, ...]
    threshold: float = 0.0

    @property
    def dense_layers(self) -> tuple[int, ...]:
        """Those without a predictor."""
        return tuple(number for number, layer in enumerate(self.layers) if layer is None)

    @classmethod
    def of(
        cls, pairs: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None], threshold: float = 0.0
    ) -> "Predictors":
        """From arrays (fc1, fc2), one pair a layer; None for a layer that runs dense."""
        return cls(tuple(None if pair is None else _of_arrays(*pair) for pair in pairs), threshold)


def _of_arrays(fc1: npt.NDArray[np.float32], fc2: npt.NDArray[np.float32]) -> LayerPredictor:
    return LayerPredictor(_of_array(FC1, fc1), _of_array(FC2, fc2))


def _of_array(name: str, array: npt.NDArray[np.float32]) -> Tensor:
    numbers = np.ascontiguousarray(array, np.float32)
    return Tensor(name, GGMLType.F32, numbers.shape, numbers.view(np.uint8).reshape(-1))


def load_predictors(folder: Path, n_embd: int, n_ff: Sequence[int]) -> Predictors:
    """Read a predictor directory for a model whose layers have so many neurons. Nothing in it is executed.

    Raises:
        PowerInferError: a layer without its file that config.json does not name as dense, a predictor of another model,
            numbers that are none, or files that are not what they should be; the message names the file.
    """
    settings = _settings(folder / CONFIG)
    dense = _dense_layers(folder / CONFIG, settings, len(n_ff))
    paths = layer_files(folder, "model", len(n_ff), "predictors", without=dense)
    layers = (_load_layer(paths[i], n_embd, n) if i in paths else None for i, n in enumerate(n_ff))
    return Predictors(tuple(layers), _threshold(folder / CONFIG, settings))


def _settings(path: Path) -> dict[str, Any]:
    """What config.json holds; without the file, nothing."""
    try:
        if path.stat().st_size > _CONFIG_BYTES:
            raise PowerInferError(f"{path}: too large for a predictor's settings")
        settings = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(settings, dict):
            return settings
    except (FileNotFoundError, NotADirectoryError):  # the layers are asked for next
        return {}
    except OSError as error:
        raise PowerInferError(f"{path}: cannot read the predictor's settings: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PowerInferError(f"{path}: the predictor's settings are not JSON") from error
    raise PowerInferError(f"{path}: the predictor's settings are not a JSON object")


def _dense_layers(path: Path, settings: dict[str, Any], n_layer: int) -> Collection[int]:
    found = settings.get("dense_layers", [])
    numbers: list[Any] = found if isinstance(found, list) else [None]
    fine = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < n_layer for n in numbers)
    if not fine or len(set(numbers)) != len(numbers):
        raise PowerInferError(
            f"{path}: dense_layers must be a list of layers from 0 to {n_layer - 1}, none of them twice"
        )
    return numbers


def _threshold(path: Path, settings: dict[str, Any]) -> float:
    """As the original: without an entry, 0."""
    value = settings.get("sparse_threshold")
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
