"""A predictor directory: `model_N.pt` of each layer that has a predictor, and `config.json`, which names the others, as
`powerinfer_cli.model.load_predictors` reads it; where all have one, as the original's converter takes it.

Each `model_N.pt` is `torch.save` of a dictionary of two float32 tensors and nothing else, `fc1.weight` [rank, n_embd]
and `fc2.weight` [n_ff, rank]: the converter makes a tensor of the model from every entry.
"""

import json
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import make_folder, replacing, write_torch
from solver.predictor.layer import TrainedPredictor

__all__ = ["layer_file", "publish", "read_layer", "write_layer"]

CONFIG = "config.json"


def layer_file(folder: Path, layer: int) -> Path:
    return folder / f"model_{layer}.pt"


def write_layer(folder: Path, layer: int, predictor: TrainedPredictor) -> None:
    """Write a layer's file. Raises PowerInferError."""
    weights = {"fc1.weight": predictor.fc1.contiguous(), "fc2.weight": predictor.fc2.contiguous()}
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise PowerInferError(f"the predictor of layer {layer} is not finite: its samples are damaged")
    with replacing(layer_file(folder, layer)) as temporary:
        write_torch(temporary, weights)


def read_layer(folder: Path, layer: int) -> tuple[Tensor, Tensor]:
    """fc1 and fc2 of a file that `write_layer` wrote. Raises PowerInferError."""
    try:
        found = torch.load(layer_file(folder, layer), weights_only=True)
        return found["fc1.weight"], found["fc2.weight"]
    except (OSError, RuntimeError, KeyError, UnpicklingError) as error:
        raise PowerInferError(f"{layer_file(folder, layer)}: cannot be read again: delete {folder}") from error


def publish(
    work: Path, folder: Path, n_layer: int, config: dict[str, object], dense_layers: Collection[int] = ()
) -> None:
    """Copy the layers' files from `work` to `folder` with a config.json; old ones are replaced when all are there.

    dense_layers: those without a predictor, which config.json names. Their files, and those of layers beyond the
    model's, of another model that had more, are removed. Raises PowerInferError.
    """
    make_folder(folder)
    if dense_layers:
        config = {**config, "dense_layers": sorted(dense_layers)}
    with ExitStack() as whole:  # leaves the files one after the other: renames them all, or removes all
        temporary = whole.enter_context(replacing(folder / CONFIG))
        temporary.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        for layer in range(n_layer):
            if layer in dense_layers:
                continue
            temporary = whole.enter_context(replacing(layer_file(folder, layer)))
            try:
                temporary.write_bytes(layer_file(work, layer).read_bytes())
            except OSError as error:
                raise PowerInferError(f"{temporary.parent}: cannot be written: {error.strerror or error}") from error
    for layer in dense_layers:
        layer_file(folder, layer).unlink(missing_ok=True)
    beyond = n_layer
    while layer_file(folder, beyond).is_file():
        layer_file(folder, beyond).unlink()
        beyond += 1
