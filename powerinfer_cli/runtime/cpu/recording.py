"""Recording: the CPU backend's batch program with every neuron computed, halted after each layer to look at it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import KeysValues
from powerinfer_cli.kernels.cpu.sparse_batch import spread_values
from powerinfer_cli.kernels.jit.program import CompiledProgram, Operation, assemble
from powerinfer_cli.model.blocks import all_active
from powerinfer_cli.runtime.cpu.program import Writer
from powerinfer_cli.runtime.cpu.weights import CPULayer, CPUWeights

__all__ = ["Recording", "every_neuron", "recording_of", "write_recording"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """A program for each layer, and what is there once it has run; read-only."""

    parts: tuple[CompiledProgram, ...]
    residual: Floats  # [tokens, n_embd]: what the layer's predictor looks at
    activations: tuple[Floats, ...]  # of each layer, [tokens, n_ff]: what meets the down matrix


def write_recording(writer: Writer, weights: CPUWeights, caches: Sequence[KeysValues]) -> Recording:
    """`writer`: of batches. All layers, the embedding before them."""
    every = every_neuron(weights)
    return recording_of(writer, every.layers, writer.layers(every, caches))


def every_neuron(weights: CPUWeights) -> CPUWeights:
    """The same weights without predictors."""
    return replace(weights, layers=tuple(CPULayer(all_active(layer.block), None) for layer in weights.layers))


def recording_of(writer: Writer, layers: Sequence[CPULayer], parts: Sequence[list[Operation]]) -> Recording:
    """`parts`: each layer's operations. A layer adds to the residual only after its predictor has looked, in the next
    one's part: so what the predictor saw is still there when the part ends.
    """
    b = writer.buffers
    spread: dict[int, Floats] = {}
    activations = []
    for layer, part in zip(layers, parts, strict=True):
        neurons = layer.block.ffn.neurons
        if neurons.transposed and writer.room is not None and writer.room.sparse is not None:
            values = spread.setdefault(neurons.n_ff, np.zeros((len(b.ids), neurons.n_ff), np.float32))
            part.append(spread_values(b.state, writer.room.sparse.of(neurons.n_ff), values))
        else:
            values = b.neurons[neurons.n_ff].value.floats
        activations.append(_view(values, neurons.n_ff))
    return Recording(tuple(map(assemble, parts)), _view(b.x.floats, b.x.n), tuple(activations))


def _view(rows: Floats, n: int) -> Floats:
    """The first n columns, for reading."""
    view = rows[:, :n]
    view.flags.writeable = False
    return view
