"""A dense GGUF and a predictor directory as one PowerInfer GGUF; or without one, where zeros are exact."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import same_file
from powerinfer_cli.gguf_io import (
    BLOCK,
    AddedValue,
    GGMLType,
    GGUFFile,
    StreamedTensor,
    Tensor,
    retyped,
    rewrite_gguf,
    streamed,
    transposed,
)
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit
from powerinfer_cli.model import DENSE_LAYERS, Activation, ModelConfig, Predictors, load_model, load_predictors
from powerinfer_cli.model.turned import FLOATS, DownType, Width, down_loss, down_type
from powerinfer_cli.placement import shown_bytes
from powerinfer_cli.runtime import LoadEvents
from solver.spoilt import spoilt_weights

__all__ = ["merge"]

_DOWN = re.compile(r"blk\.(\d+)\.ffn_down\.(weight|bias)")
LARGE_LOSS = 0.025  # that shows in perplexity: 0.7 to 1.2 % at 0.035, 3.5 % at 0.07 (scripts/bench/NOTES.md)


def merge(
    dense: GGUFFile,
    folder: Path | None,
    path: Path,
    events: LoadEvents,
    *,
    down: DownType = Width.AUTO,
    measured: bool = False,
) -> None:
    """Write `path`: the tensors of `dense` as they are, down matrices transposed, and the predictors of `folder`.

    folder None: there are none, and the file is a dense one, of a model whose neurons have exact zeros.
    Blocks of a quantised matrix lie along its rows, so that a transposed one has to be quantised anew, in the type that
    `down` asks for (see `down_type`). measured: what that costs has been told. Predictors are Q8_0 in a quantised model
    and F16 in another.
    Notes say what became what, and what it costs. No more than one tensor is in memory.

    Raises:
        PowerInferError: not a dense model that can be run, weights that are no numbers, predictors of another one, or
            `path` cannot be written.
    """
    model = load_model(dense)  # what cannot be run cannot be merged
    config = model.config
    if model.has_experts:
        raise PowerInferError(f"{dense.path}: has experts, whose down matrices cannot be transposed yet")
    if config.sparse:
        raise PowerInferError(f"{dense.path}: has predictors already; they are merged into dense models")
    having = {i: layer.ffn.neurons for i, layer in enumerate(model.layers) if layer.ffn.neurons.n_ff}
    if not all(one.down.weight.name.startswith(f"blk.{i}.") for i, one in having.items()):
        raise PowerInferError(f"{dense.path}: has layers of nothing, which leave gaps: it cannot be merged yet")
    if any(same_file(path, source) for source in dense.files):
        raise PowerInferError(f"{path}: is the model itself: give another name for the merged one")
    if folder is None and not config.activation.has_exact_zeros:
        raise PowerInferError(f"{dense.path}: neurons of {config.activation} are never exactly 0: they need predictors")
    if folder is None and not any(map(_DOWN.fullmatch, dense.tensors)):
        raise PowerInferError(f"{dense.path}: its down matrices are transposed already")
    if folder is None and (spoilt := spoilt_weights(dense)):  # nobody has run it
        raise PowerInferError(spoilt)
    predictors = None if folder is None else load_predictors(folder, config.n_embd, config.n_ff)
    stay = _unturned(dense, config, predictors)
    limit = 1.0 if measured else LARGE_LOSS
    tensors = list(_model_tensors(dense, config, down, events.note, stay, limit))
    for layer, predictor in enumerate(predictors.layers if predictors else ()):
        if predictor is None:
            continue
        pairs = (("fc1", predictor.fc1), ("fc2", predictor.fc2))
        quantised = dense.tensors[f"blk.{layer}.ffn_down.weight"].type not in FLOATS
        tensors += [_predictor(f"blk.{layer}.{name}.weight", tensor, quantised) for name, tensor in pairs]
    rewrite_gguf(
        dense,
        path,
        dropped=("powerinfer.",),
        added=_added(config, predictors) if predictors else {},
        tensors=tensors,
        sparse=predictors is not None,
        on_bytes=lambda done, total: events.progress("merging", done, total),
    )


def _unturned(dense: GGUFFile, config: ModelConfig, predictors: Predictors | None) -> Collection[int]:
    """Layers that keep their down matrix: those that run dense."""
    if predictors is None:
        return ()
    if len(predictors.dense_layers) == config.n_layer:
        raise PowerInferError(f"{dense.path}: no layer has a predictor: there is nothing to merge")
    return predictors.dense_layers


def _added(config: ModelConfig, predictors: Predictors) -> dict[str, AddedValue]:
    """A sparse file's activation is ReLU unless our key says another, which the original PowerInfer does not know."""
    added: dict[str, AddedValue] = {"powerinfer.sparse_threshold": predictors.threshold}
    if predictors.dense_layers:
        added[DENSE_LAYERS] = np.array(predictors.dense_layers, np.int32)
    if config.activation is not Activation.RELU:
        added["powerinfer.activation"] = config.activation.value
    return added


def _model_tensors(
    dense: GGUFFile,
    config: ModelConfig,
    down: DownType,
    note: Callable[[str], None],
    stay: Collection[int],
    limit: float,
) -> Iterator[StreamedTensor]:
    grown: Counter[tuple[GGMLType, GGMLType]] = Counter()  # bytes, by what became what
    losses: dict[tuple[GGMLType, GGMLType], float] = {}
    for tensor in dense.tensors.values():
        match = _DOWN.fullmatch(tensor.name)
        if match is None or int(match[1]) in stay:
            yield streamed(tensor)
            continue
        name = f"blk.{match[1]}.ffn_down_t.{match[2]}"
        if match[2] == "bias":
            yield streamed(tensor, name)
            continue
        kind = down_type(tensor.type, config.n_embd, down)
        turned = streamed(transposed(tensor, name, kind, CompiledFit()))
        pair = tensor.type, kind
        grown[pair] += turned.nbytes - tensor.nbytes
        losses[pair] = max(losses.get(pair, 0.0), down_loss(tensor, down, CompiledFit()))
        yield turned
    for (before, after), more in grown.items():
        if before not in FLOATS or before is not after:
            note(_told(before, after, more, losses[before, after], down, limit))


def _told(before: GGMLType, after: GGMLType, more: int, loss: float, down: DownType, limit: float) -> str:
    """limit: of a loss that needs no warning."""
    what = f"down matrices are turned round, {before.name} to {after.name}: {shown_bytes(abs(more))} "
    what += f"{'more' if more >= 0 else 'less'}, numbers move by {100 * loss:.1f} %"
    if loss > limit:
        return f"warning: {what}, which costs a per cent of perplexity or more; --down-type auto keeps more bits"
    return f"{what}; --down-type same keeps their size and loses more" if more > 0 and down is Width.AUTO else what


def _predictor(name: str, tensor: Tensor, quantised: bool) -> StreamedTensor:
    eight_bits = quantised and tensor.shape[1] % BLOCK[GGMLType.Q8_0][0] == 0
    return streamed(retyped(tensor, GGMLType.Q8_0 if eight_bits else GGMLType.F16, CompiledFit()), name)
