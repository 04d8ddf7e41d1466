"""Recording: the CPU backend's batch program with every neuron computed, halted after each layer to look at it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import KeysValues
from powerinfer_cli.kernels.cpu.sparse_batch import spread_values
from powerinfer_cli.kernels.jit.program import Compiled, Operation, assemble
from powerinfer_cli.runtime.cpu.program import Writer
from powerinfer_cli.runtime.cpu.weights import CPUWeights

__all__ = ["Recording", "all_active", "recording_of", "write_recording"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """A program for each layer, and what is there once it has run; read-only."""

    parts: tuple[Compiled, ...]
    residual: Floats  # [tokens, n_embd]: what the layer's predictor looks at
    activations: Floats  # [tokens, n_ff]: what meets the down matrix


def write_recording(writer: Writer, weights: CPUWeights, caches: Sequence[KeysValues]) -> Recording:
    """`writer`: of batches. All layers, the embedding before them."""
    return recording_of(writer, writer.layers(all_active(weights), caches))


def all_active(weights: CPUWeights) -> CPUWeights:
    """The same weights without predictors."""
    return replace(weights, layers=tuple(replace(layer, predictor=None) for layer in weights.layers))


def recording_of(writer: Writer, parts: Sequence[list[Operation]]) -> Recording:
    """`parts`: each layer's operations. A layer adds to the residual only after its predictor has looked, in the next
    one's part: so what the predictor saw is still there when the part ends.
    """
    b, sizes = writer.buffers, writer.config.sizes
    activations = b.value.floats
    if writer.room is not None and writer.room.sparse is not None:
        activations = np.zeros((len(b.ids), sizes.n_ff), np.float32)
        for part in parts:
            part.append(spread_values(b.state, writer.room.sparse, activations))
    return Recording(tuple(map(assemble, parts)), _view(b.x.floats, sizes.n_embd), _view(activations, sizes.n_ff))


def _view(rows: Floats, n: int) -> Floats:
    """The first n columns, for reading."""
    view = rows[:, :n]
    view.flags.writeable = False
    return view
