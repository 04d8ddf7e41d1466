"""Recording: the CPU backend's batch program with every neuron computed, halted before each layer's down matrix."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import KeysValues
from powerinfer_cli.kernels.cpu.norm import quantise
from powerinfer_cli.kernels.cpu.sparse.batch import add_rows, sparse_values
from powerinfer_cli.kernels.cpu.sparse.values import gather_values, spread_values
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.jit.program import CompiledProgram, Operation, assemble
from powerinfer_cli.kernels.jit.team import Team
from powerinfer_cli.model.blocks import all_active
from powerinfer_cli.runtime.backend import Watch
from powerinfer_cli.runtime.cpu.ffn import Addends
from powerinfer_cli.runtime.cpu.program import Writer
from powerinfer_cli.runtime.cpu.weights import CPULayer, CPUNeurons, CPUWeights

__all__ = ["HaltedLayer", "HaltedWriter", "Recording", "every_neuron"]

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HaltedLayer:
    """Two programs, and what is there between them: activations [tokens, n_ff], that the second one reads.

    places [n_ff]: where each neuron's activation is, where neurons are in another order than the file's.
    """

    before: CompiledProgram
    activations: Floats
    places: Places | None
    behind: CompiledProgram

    def in_order(self, n_tokens: int) -> Floats:
        """The activations of the first tokens, in the order of the file."""
        found = self.activations[:n_tokens]
        return found if self.places is None else found[:, self.places]


@dataclass(frozen=True)
class Recording:
    """The layers, and the residual [tokens, n_embd] that a layer's predictor looks at, there when it halts.

    A layer adds to it only in the next one's program.
    """

    layers: tuple[HaltedLayer, ...]
    residual: Floats

    def run(self, team: Team, threads: int, numbers: Iterable[int], n_tokens: int, watch: Watch) -> None:
        """numbers: of the layers, in the model."""
        for number, layer in zip(numbers, self.layers, strict=True):
            team.run(layer.before.table, threads)
            watch(number, self.residual[:n_tokens], layer.in_order(n_tokens))
            team.run(layer.behind.table, threads)


def every_neuron(weights: CPUWeights) -> CPUWeights:
    """The same weights without predictors."""
    layers = tuple(replace(layer, block=all_active(layer.block), modes=None) for layer in weights.layers)
    return replace(weights, layers=layers)


class HaltedWriter(Writer):
    """Writes the operations of batches so that they can be halted in each layer; its neurons are not predicted."""

    def __init__(self, writer: Writer) -> None:
        """writer: of batches, over the same buffers."""
        super().__init__(writer.buffers, writer.threshold, writer.threads, writer.room)
        self._halts: list[tuple[Operation, Floats, Places | None]] = []
        self._spread: dict[int, Floats] = {}

    def recording(self, layers: Sequence[list[Operation]]) -> Recording:
        """Of layers that this has written last, in their order."""
        halts, self._halts = self._halts, []
        found = []
        for operations, (last, activations, places) in zip(layers, halts, strict=True):
            at = 1 + next(i for i, operation in enumerate(operations) if operation is last)
            found.append(HaltedLayer(assemble(operations[:at]), activations, places, assemble(operations[at:])))
        x = self.buffers.x
        return Recording(tuple(found), x.floats[:, : x.n])

    def layer(self, place: int, layer: CPULayer, cache: KeysValues, adds: Addends) -> list[Operation]:
        written = super().layer(place, layer, cache, adds)
        if not layer.block.ffn.neurons.n_ff:
            self._halts.append((written[-1], np.empty((len(self.buffers.ids), 0), np.float32), None))
        return written

    def _dense_ffn(self, neurons: CPUNeurons, x: Vectors) -> list[Operation]:
        b, values = self.buffers, self.dense_values(neurons, x)
        room = b.neurons[neurons.n_ff].value
        self._halts.append((values[-1], room.floats[:, : neurons.n_ff], None))
        return [*values, quantise(b.state, room), *self._multiply(room, [(neurons.down, b.ffn.floats)])]

    def _sparse_ffn(self, place: int, layer: CPULayer, x: Vectors) -> list[Operation]:
        b, room, neurons = self.buffers, self.room, layer.block.ffn.neurons
        assert room is not None
        assert room.sparse is not None  # there is one where down rows are rows
        n_ff, workspace = neurons.n_ff, room.sparse.of(neurons.n_ff)
        if n_ff not in self._spread:
            self._spread[n_ff] = np.zeros((len(b.ids), n_ff), np.float32)
        activations = self._spread[n_ff]
        spread = spread_values(b.state, workspace, activations)
        self._halts.append((spread, activations, None if layer.order is None else np.argsort(layer.order)))
        return [
            *sparse_values(b.state, x, None, neurons, None, b.counts[place], room.products, workspace),
            spread,
            gather_values(b.state, workspace, activations),
            add_rows(b.state, neurons, b.ffn.floats, workspace),
        ]
