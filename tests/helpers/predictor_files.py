"""Predictor directories as trainers write them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from powerinfer_cli.model import Predictors
from tests.helpers.kernels.sparse_reference import Predictor


def save_predictors(
    folder: Path,
    predictors: Sequence[Predictor | None],
    threshold: float | None = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """`threshold` None: no config.json. A layer that is None has no file, and config.json says so."""
    folder.mkdir(exist_ok=True)
    for layer, pair in enumerate(predictors):
        if pair is None:
            continue
        matrices: dict[str, Any] = {
            f"{name}.weight": torch.from_numpy(matrix).to(dtype)
            for name, matrix in zip(("fc1", "fc2"), pair, strict=True)
        }
        torch.save(matrices, folder / f"model_{layer}.pt")
    if threshold is not None:
        dense = [layer for layer, pair in enumerate(predictors) if pair is None]
        settings = {"sparse_threshold": threshold} | ({"dense_layers": dense} if dense else {})
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


def everything(predictors: list[Predictor]) -> Predictors:
    """Of the same shapes, letting every neuron through: every logit is 0, and so is the threshold."""
    return Predictors.of([(fc1, 0 * fc2) for fc1, fc2 in predictors])
