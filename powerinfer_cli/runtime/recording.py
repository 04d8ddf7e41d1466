"""Recording: the CPU backend's batch program with every neuron computed, halted after each layer to look at it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import KeysValues
from powerinfer_cli.kernels.program import Compiled, assemble
from powerinfer_cli.kernels.sparse_batch import spread_values
from powerinfer_cli.runtime.cpu_program import Writer
from powerinfer_cli.runtime.cpu_weights import CPUWeights

__all__ = ["Recording", "write_recording"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """A program for each layer, and what is there once it has run; read-only."""

    parts: tuple[Compiled, ...]
    residual: Floats  # [tokens, n_embd]: what the layer's predictor looks at
    activations: Floats  # [tokens, n_ff]: what meets the down matrix


def write_recording(writer: Writer, weights: CPUWeights, caches: Sequence[KeysValues]) -> Recording:
    """`writer`: of batches. A layer adds to the residual only after its predictor has looked, in the next one's part:
    so what the predictor saw is still there when the part ends."""
    b, sizes = writer.buffers, writer.config.sizes
    everything = replace(weights, layers=tuple(replace(layer, predictor=None) for layer in weights.layers))
    parts = writer.layers(everything, caches)
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
