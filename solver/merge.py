"""A dense GGUF and a predictor directory as one PowerInfer GGUF."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import (
    BLOCK,
    GGMLType,
    GGUFError,
    GGUFFile,
    StreamedTensor,
    Tensor,
    quantize,
    retyped,
    rewrite_gguf,
    streamed,
    transposed,
)
from powerinfer_cli.model import Activation, ModelConfig, load_predictors, load_weights
from powerinfer_cli.runtime import LoadEvents

__all__ = ["merge", "storable"]

_DOWN = re.compile(r"blk\.(\d+)\.ffn_down\.(weight|bias)")
FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)


def merge(dense: GGUFFile, folder: Path, path: Path, events: LoadEvents) -> None:
    """Write `path`: the tensors of `dense` as they are, down matrices transposed, and the predictors of `folder`.

    Transposed matrices keep the file's type where it can be written, predictors are Q8_0 in a quantised model and F16
    in another; notes say what became what. No more than one tensor is in memory.

    Raises:
        PowerInferError: not a dense model that can be run, predictors of another one, or `path` cannot be written.
    """
    config = ModelConfig.from_gguf(dense)
    if config.sparse:
        raise PowerInferError(f"{dense.path}: has predictors already; they are merged into dense models")
    load_weights(dense, config)  # what cannot be run cannot be merged
    if path.resolve() == dense.path.resolve():
        raise PowerInferError(f"{path}: is the model itself: give another name for the merged one")
    predictors = load_predictors(folder, config.n_layer, config.n_embd, config.n_ff)
    tensors = list(_model_tensors(dense, config, events.note))
    for layer, predictor in enumerate(predictors.layers):
        pairs = (("fc1", predictor.fc1), ("fc2", predictor.fc2))
        quantised = dense.tensors[f"blk.{layer}.ffn_down.weight"].type not in FLOATS
        tensors += [_predictor(f"blk.{layer}.{name}.weight", tensor, quantised) for name, tensor in pairs]
    rewrite_gguf(
        dense,
        path,
        dropped=("powerinfer.",),
        added=_added(config, predictors.threshold),
        tensors=tensors,
        sparse=True,
        on_bytes=lambda done, total: events.progress("merging", done, total),
    )


def _added(config: ModelConfig, threshold: float) -> dict[str, str | float]:
    """A sparse file's activation is ReLU unless our key says another, which the original PowerInfer does not know."""
    added: dict[str, str | float] = {"powerinfer.sparse_threshold": threshold}
    if config.activation is not Activation.RELU:
        added["powerinfer.activation"] = config.activation.value
    return added


def _model_tensors(dense: GGUFFile, config: ModelConfig, note: Callable[[str], None]) -> Iterator[StreamedTensor]:
    told: set[GGMLType] = set()
    for tensor in dense.tensors.values():
        match = _DOWN.fullmatch(tensor.name)
        if match is None:
            yield streamed(tensor)
            continue
        name = f"blk.{match[1]}.ffn_down_t.{match[2]}"
        if match[2] == "bias":
            yield streamed(tensor, name)
            continue
        kind = storable(tensor.type, config.n_embd)
        if tensor.type not in told and tensor.type not in FLOATS:
            told.add(tensor.type)
            how = "quantised anew" if kind is tensor.type else f"stored as {kind.name}"
            note(f"down matrices of type {tensor.type.name} are turned round and {how}")
        yield streamed(transposed(tensor, name, kind))


def storable(kind: GGMLType, columns: int) -> GGMLType:
    """`kind` where rows of that many numbers can be written in it; else Q8_0, or F16 where that cannot be."""
    for choice in (kind, GGMLType.Q8_0):
        try:
            quantize(np.zeros((1, columns), np.float32), choice)
        except GGUFError:
            continue
        return choice
    return GGMLType.F16


def _predictor(name: str, tensor: Tensor, quantised: bool) -> StreamedTensor:
    eight_bits = quantised and tensor.shape[1] % BLOCK[GGMLType.Q8_0][0] == 0
    return streamed(retyped(tensor, GGMLType.Q8_0 if eight_bits else GGMLType.F16), name)
