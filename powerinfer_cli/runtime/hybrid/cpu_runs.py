"""The layers that a plan leaves in main memory, one program for each run of them, between what GPUs do."""

from collections.abc import Sequence
from typing import assert_never

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.jit.program import Operation, assemble
from powerinfer_cli.placement import Plan
from powerinfer_cli.runtime.backend import Hidden, Parts, Watch, WatchRoutes
from powerinfer_cli.runtime.batch import BatchKind
from powerinfer_cli.runtime.cpu.buffers import Buffers
from powerinfer_cli.runtime.cpu.ffn import NOTHING
from powerinfer_cli.runtime.cpu.program import Writer
from powerinfer_cli.runtime.cpu.recording import HaltedWriter, Recording, every_neuron
from powerinfer_cli.runtime.cpu.side import CPUSide
from powerinfer_cli.runtime.cpu.weights import CPUWeights, Floats, Uses

__all__ = ["CPURuns"]

Layers = tuple[int, ...]


class CPURuns(CPUSide):
    """`runs`: the consecutive layers, by their number in the model, that are here."""

    def __init__(self, parts: Parts, plan: Plan, runs: Sequence[Layers], adapting: Uses) -> None:
        self._runs = runs
        super().__init__(parts, plan, adapting)

    def write_layers(self, one: Writer, few: Writer, many: Writer) -> None:
        """The embedding, and each run: from x to x."""
        writers = one, few if self.most_few > 1 else many, many
        embeds = {kind: writer.embedding(self.weights) for kind, writer in zip(BatchKind, writers, strict=True)}
        tokens = {layers: self._operations(one, layers) for layers in self._runs}
        fews = {layers: self._operations(few, layers) for layers in self._runs} if self.most_few > 1 else {}
        batches = {layers: self._operations(many, layers) for layers in self._runs}
        written = [op for run in (*tokens.values(), *fews.values(), *batches.values()) for ops in run for op in ops]
        self.prepare(op.kernel for op in (*(op for ops in embeds.values() for op in ops), *written))
        self._embeds = {kind: assemble(operations) for kind, operations in embeds.items()}
        self._tokens = {layers: assemble([op for ops in run for op in ops]) for layers, run in tokens.items()}
        self._fews = {layers: assemble([op for ops in run for op in ops]) for layers, run in fews.items()}
        self._batches = {layers: [assemble(ops) for ops in run] for layers, run in batches.items()}
        self._batch_writer = many
        self._recordings: dict[Layers, Recording] = {}

    def _operations(self, writer: Writer, layers: Layers) -> list[list[Operation]]:
        """Layer by layer."""
        return self._operations_of(writer, self.weights, layers)

    def _operations_of(self, writer: Writer, weights: CPUWeights, layers: Layers) -> list[list[Operation]]:
        found = []
        adds = NOTHING
        for number in layers:
            index = self.layers.index(number)
            found.append(writer.layer(index, weights.layers[index], self.cache.layers[index], adds))
            adds = writer.left(weights.layers[index])
        found[-1] += writer.last_add(adds)
        return found

    def record(self, layers: Layers, n_tokens: int, watch: Watch) -> None:
        """A batch's x through these layers, every neuron computed; `watch` is called in each."""
        if layers not in self._recordings:
            writer = HaltedWriter(self._batch_writer)
            operations = self._operations_of(writer, every_neuron(self.weights), layers)
            self.prepare(op.kernel for ops in operations for op in ops)
            self._recordings[layers] = writer.recording(operations)
        self._recordings[layers].run(self.team, self.threads_batch, layers, n_tokens, watch)

    def embed(self, kind: BatchKind) -> None:
        """x = the embeddings of the tokens that `begin` told of, and what layers get of them besides."""
        self.team.run(self._embeds[kind].table, self.threads_for(kind))

    def run(self, layers: Layers, kind: BatchKind) -> None:
        """x through these layers."""
        match kind:
            case BatchKind.ONE:
                self.team.run(self._tokens[layers].table, self.threads)
            case BatchKind.FEW:
                self.team.run(self._fews[layers].table, self.threads)
            case BatchKind.MANY:
                for part in self._batches[layers]:
                    self.team.run(part.table, self.threads_batch)
            case never:
                assert_never(never)

    def record_routes(self, layers: Layers, n_tokens: int, watch: WatchRoutes) -> None:
        """A batch's x through these layers; `watch` is called in those that have experts."""
        for number, part in zip(layers, self._batches[layers], strict=True):
            self.team.run(part.table, self.threads_batch)
            self.show_routes(self.layers.index(number), n_tokens, watch)

    def hidden_of_one(self) -> Hidden:
        """The hidden state [1, n_embd], behind the last norm, of the one token's x."""
        self.head_of_one()
        return self.last_of(self.one).floats[:, : self.config.n_embd].copy()

    def inputs_of(self, buffers: Buffers, n: int) -> Floats | None:
        """What layers get of n tokens beside x, [T, n_layer, width], where they do."""
        room = buffers.inputs
        return None if room is None else room.inputs.floats[:n, : room.inputs.n].reshape(n, -1, room.gate.n)

    def x_of(self, buffers: Buffers) -> npt.NDArray[np.float32]:
        """The residual stream [tokens, n_embd], of one token or of a batch."""
        return buffers.x.floats[:, : self.config.n_embd]
