"""A dense model with predictors as a PowerInfer file: down matrices turned over, so that neurons are rows in all."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import make_folder, replacing
from powerinfer_cli.gguf_io import GGUFFile, Tensor, renamed, transposed
from powerinfer_cli.model import DENSE_LAYERS, Activation, Model, Predictors, load_predictors

__all__ = ["copy_statistics", "sparse_file"]

DOWN = re.compile(r"blk\.(\d+)\.ffn_down\.(weight|bias)")
STATISTICS = re.compile(r"activation_\d{1,6}\.pt|activation\.npz")
MOST_BYTES = 1 << 30


def sparse_file(dense: GGUFFile, model: Model, folder: Path) -> GGUFFile:
    """The tensors of `dense`, the down matrices of layers with predictors transposed, and the predictors of `folder`.

    Raises:
        PowerInferError: neurons without zeros, experts, or predictors of another model.
    """
    config = model.config
    if model.has_experts:
        raise PowerInferError(f"{dense.path}: has experts: a router says which neurons are needed, not predictors")
    if config.activation not in (Activation.RELU, Activation.FATRELU):
        raise PowerInferError(
            f"{dense.path}: neurons of {config.activation} are hardly ever 0, so --predictors would spare nothing; "
            "`powerinfer solve` makes predictors that cut the smallest ones"
        )
    predictors = load_predictors(folder, config.n_embd, config.n_ff)
    if len(predictors.dense_layers) == config.n_layer:
        raise PowerInferError(f"{folder}: no layer has a predictor")
    turned = _turned(dense, predictors.dense_layers)
    tensors = {tensor.name: tensor for tensor in (*turned, *_matrices(predictors))}
    metadata: dict[str, Any] = {**dense.metadata, "powerinfer.sparse_threshold": predictors.threshold}
    metadata.pop(f"{config.architecture.name}.hidden_activation", None)  # PowerInfer files have ReLU
    if config.activation is not Activation.RELU:
        metadata["powerinfer.activation"] = config.activation.value
    if predictors.dense_layers:
        metadata[DENSE_LAYERS] = np.array(predictors.dense_layers, np.int32)
    return GGUFFile(dense.path, True, dense.version, metadata, tensors)


def _turned(dense: GGUFFile, stay: Collection[int]) -> Iterable[Tensor]:
    """stay: the layers that run dense, and are left as they are."""
    for tensor in dense.tensors.values():
        found = DOWN.fullmatch(tensor.name)
        if found is None or int(found[1]) in stay:
            yield tensor
            continue
        name = f"blk.{found[1]}.ffn_down_t.{found[2]}"
        yield transposed(tensor, name, tensor.type) if found[2] == "weight" else renamed(tensor, name)


def _matrices(predictors: Predictors) -> Iterable[Tensor]:
    for number, layer in enumerate(predictors.layers):
        if layer is not None:
            yield renamed(layer.fc1, f"blk.{number}.fc1.weight")
            yield renamed(layer.fc2, f"blk.{number}.fc2.weight")


def copy_statistics(sources: Iterable[Path], target: Path) -> Path | None:
    """Activation statistics that lie in an `activation` folder of one of these, to one beside the new file.

    Returns where they are; None: there are none. Raises PowerInferError.
    """
    for folder in (source / "activation" for source in sources):
        files = [path for path in sorted(folder.glob("activation*")) if STATISTICS.fullmatch(path.name)]
        if not files or (target / "activation").resolve() == folder.resolve():
            continue
        made = make_folder(target / "activation")
        for path in files:
            if path.stat().st_size > MOST_BYTES:
                raise PowerInferError(f"{path}: has {path.stat().st_size} bytes, too many for activation statistics")
            with replacing(made / path.name) as temporary:
                temporary.write_bytes(path.read_bytes())
        return made
    return None
