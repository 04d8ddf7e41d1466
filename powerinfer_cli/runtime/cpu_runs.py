"""The layers that a plan leaves in main memory, one program for each run of them, between what GPUs do."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.program import Operation, assemble
from powerinfer_cli.placement import Plan
from powerinfer_cli.runtime.backend import Parts
from powerinfer_cli.runtime.cpu_program import Writer
from powerinfer_cli.runtime.cpu_side import CPUSide

__all__ = ["CPURuns"]

Layers = tuple[int, ...]


class CPURuns(CPUSide):
    """`runs`: the consecutive layers, by their number in the model, that are here."""

    def __init__(self, parts: Parts, plan: Plan, runs: Sequence[Layers]) -> None:
        self._runs = runs
        super().__init__(parts, plan)

    def write_layers(self, one: Writer, many: Writer) -> None:
        """The embedding, and each run: from x to x."""
        embed_one, embed_many = one.embedding(self.weights), many.embedding(self.weights)
        tokens = {layers: self._operations(one, layers) for layers in self._runs}
        batches = {layers: self._operations(many, layers) for layers in self._runs}
        written = [op for run in (*tokens.values(), *batches.values()) for ops in run for op in ops]
        self.prepare(op.kernel for op in (*embed_one, *embed_many, *written))
        self._embed_one, self._embed_many = assemble(embed_one), assemble(embed_many)
        self._tokens = {layers: assemble([op for ops in run for op in ops]) for layers, run in tokens.items()}
        self._batches = {layers: [assemble(ops) for ops in run] for layers, run in batches.items()}

    def _operations(self, writer: Writer, layers: Layers) -> list[list[Operation]]:
        """Layer by layer."""
        found = []
        adds: tuple[npt.NDArray[np.float32], ...] = ()
        for number in layers:
            index = self.layers.index(number)
            layer = self.weights.layers[index]
            found.append(writer.layer(layer, self.cache.layers[index], adds))
            adds = writer.left(layer)
        found[-1] += writer.last_add(adds)
        return found

    def embed(self, n_tokens: int) -> None:
        """x = the embeddings of the tokens that `begin` told of."""
        if n_tokens == 1:
            self.team.run(self._embed_one.table, self.threads)
        else:
            self.team.run(self._embed_many.table, self.threads_batch)

    def run(self, layers: Layers, n_tokens: int) -> None:
        """x through these layers."""
        if n_tokens == 1:
            self.team.run(self._tokens[layers].table, self.threads)
            return
        for part in self._batches[layers]:
            self.team.run(part.table, self.threads_batch)

    def x_of(self, n_tokens: int) -> npt.NDArray[np.float32]:
        """The residual stream [tokens, n_embd], of one token or of a batch."""
        buffers = self.one if n_tokens == 1 else self.many
        return buffers.x.floats[:, : self.config.n_embd]
