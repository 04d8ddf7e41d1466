"""Predictor directories as trainers write them."""

import json
from pathlib import Path
from typing import Any

import torch

from powerinfer_cli.model import Predictors
from tests.helpers.sparse_reference import Predictor


def save_predictors(
    folder: Path, predictors: list[Predictor], threshold: float | None = 0.0, dtype: torch.dtype = torch.float32
) -> Path:
    """`threshold` None: no config.json."""
    folder.mkdir(exist_ok=True)
    for layer, pair in enumerate(predictors):
        matrices: dict[str, Any] = {
            f"{name}.weight": torch.from_numpy(matrix).to(dtype)
            for name, matrix in zip(("fc1", "fc2"), pair, strict=True)
        }
        torch.save(matrices, folder / f"model_{layer}.pt")
    if threshold is not None:
        (folder / "config.json").write_text(json.dumps({"sparse_threshold": threshold}))
    return folder


def everything(predictors: list[Predictor]) -> Predictors:
    """Of the same shapes, letting every neuron through: every logit is 0, and so is the threshold."""
    return Predictors.of([(fc1, 0 * fc2) for fc1, fc2 in predictors])
