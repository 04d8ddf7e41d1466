"""The batch program with sums of squares of all that meets a matrix: which columns of it matter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import KeysValues
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.squares import expert_squares, squares
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.jit.program import CompiledProgram, Operation, assemble
from powerinfer_cli.kernels.jit.team import Team
from powerinfer_cli.model.blocks import FFN, Routed, leaves
from powerinfer_cli.runtime.backend import WatchInputs
from powerinfer_cli.runtime.cpu.experts import routes_of, sizes_of_experts
from powerinfer_cli.runtime.cpu.ffn import Products
from powerinfer_cli.runtime.cpu.program import Writer
from powerinfer_cli.runtime.cpu.weights import CPULayer, CPUWeights, Floats

__all__ = ["Summing", "SummingWriter"]


@dataclass(frozen=True)
class Inputs:
    """Of a matrix: its number among the layer's, the sums [1 or n_experts, stride], and how many columns there are."""

    matrix: int
    sums: Floats
    n: int


@dataclass(frozen=True)
class SummedLayer:
    """starts [E + 1]: where an expert's pairs begin, until another layer's router has its say; None: it has none."""

    program: CompiledProgram
    inputs: tuple[Inputs, ...]
    starts: npt.NDArray[np.int32] | None


@dataclass(frozen=True)
class Summing:
    """The layers."""

    layers: tuple[SummedLayer, ...]

    def run(self, team: Team, threads: int, numbers: Sequence[int], n_tokens: int, watch: WatchInputs) -> None:
        """numbers: of the layers, in the model."""
        for number, layer in zip(numbers, self.layers, strict=True):
            team.run(layer.program.table, threads)
            for one in layer.inputs:
                counts = np.array([n_tokens])
                if len(one.sums) > 1 and layer.starts is not None:
                    counts = np.diff(layer.starts).astype(np.int64)
                watch(number, one.matrix, one.sums[:, : one.n], counts)


class SummingWriter(Writer):
    """Writes the operations of batches; nothing that is computed changes."""

    def __init__(self, writer: Writer) -> None:
        """writer: of batches, over the same buffers."""
        super().__init__(writer.buffers, writer.threshold, writer.threads, writer.room)
        self._sums: list[tuple[WeightRows, Floats, int]] = []

    def summing(self, weights: CPUWeights, caches: Sequence[KeysValues]) -> tuple[Summing, list[Operation]]:
        """The layers, and all their operations."""
        layers, operations = [], self.layers(weights, caches)
        operations[-1] += self.last_add(self.left(weights.layers[-1]))
        numbers = [{id(one): i for i, one in enumerate(leaves(layer.block)[0])} for layer in weights.layers]
        for layer, written, number in zip(weights.layers, operations, numbers, strict=True):
            here = [Inputs(number[id(one)], sums, n) for one, sums, n in self._sums if id(one) in number]
            routes = routes_of(layer.block, self.buffers.routed)
            starts = None if routes is None else routes.starts
            layers.append(SummedLayer(assemble(written), tuple(here), starts))
        return Summing(tuple(layers)), [one for written in operations for one in written]

    def _sum(self, x: Vectors, met: Sequence[WeightRows]) -> Operation:
        sums = np.zeros((1, x.stride), np.float32)
        self._sums += [(one, sums, x.n) for one in met]
        return squares(self.buffers.state, x, sums)

    def _multiply(self, x: Vectors, products: Products) -> list[Operation]:
        return [self._sum(x, [one.weight for one, _ in products]), *super()._multiply(x, products)]

    def _sparse_ffn(self, place: int, layer: CPULayer, x: Vectors) -> list[Operation]:
        neurons = layer.block.ffn.neurons
        met = [one.weight for one in (neurons.gate, neurons.up) if one is not None]
        return [self._sum(x, met), *super()._sparse_ffn(place, layer, x)]

    def _routed_ffn(
        self, ffn: FFN[WeightRows, Floats], routed: Routed[WeightRows, Floats], x: Vectors
    ) -> list[Operation]:
        b, neurons = self.buffers, ffn.neurons
        room = b.routed[sizes_of_experts(neurons, routed)]
        seen = x if routed.latents is None else b.latents[routed.latents.enter.weight.n_rows].seen
        if routed.apart is not None:
            seen = b.x if routed.apart.before is None else b.normed_2
        found = []
        for vectors, by_token, of in (
            (seen, True, (neurons.gate, neurons.up)),
            (room.experts.value, False, (neurons.down,)),
        ):
            sums = np.zeros((routed.n_experts, vectors.stride), np.float32)
            self._sums += [(one.weight, sums, vectors.n) for one in of if one is not None]
            found.append(expert_squares(room.routes, vectors, sums, by_token=by_token))
        return [*super()._routed_ffn(ffn, routed, x), *found]
