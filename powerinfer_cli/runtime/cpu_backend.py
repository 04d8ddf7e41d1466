"""The CPU backend: a model's operations as two programs, one for a single token, one for a batch, run by a team."""

from collections.abc import Sequence

from powerinfer_cli.kernels.program import assemble
from powerinfer_cli.placement import main_memory_plan
from powerinfer_cli.runtime.backend import Hidden, Logits, Parts, Tap
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.cpu_program import Writer
from powerinfer_cli.runtime.cpu_side import CPUSide
from powerinfer_cli.runtime.recording import Recording, write_recording

__all__ = ["CPUBackend"]


class CPUBackend(CPUSide):
    """Everything is in main memory: one program carries a token from its id to its logits."""

    def __init__(self, parts: Parts) -> None:
        self._stats = parts.stats
        super().__init__(parts, main_memory_plan(parts.config.n_layer))

    def write_layers(self, one: Writer, many: Writer) -> None:
        caches = self.cache.layers
        token, batch = one.layers(self.weights, caches), many.layers(self.weights, caches)
        token[-1] += one.head(self.weights, one.left(self.weights.layers[-1]), self.logits.floats)
        batch[-1] += many.last_add(many.left(self.weights.layers[-1]))
        self.prepare(op.kernel for ops in (*token, *batch) for op in ops)
        self._token = assemble([op for ops in token for op in ops])
        self._batch = [assemble(ops) for ops in batch]
        self._batch_writer = many
        self._recording: Recording | None = None

    def forward(self, batch: Batch) -> None:
        single = len(batch) == 1
        buffers = self.one if single else self.many
        self.begin(batch, buffers)
        if single:
            self.team.run(self._token.table, self.threads)
        else:
            for part in self._batch:  # one at a time, so that Ctrl-C is heard between layers
                self.team.run(part.table, self.threads_batch)
        self._single = single
        if self.config.sparse:
            predicted, fired = buffers.counts.tolist()
            self._stats.add(self.config.n_layer * self.config.sizes.n_ff * len(batch), predicted, fired)

    def hidden_at(self, rows: slice) -> Hidden:
        if self._single:
            return self.one.normed.floats[rows, : self.config.n_embd].copy()
        return self.hidden_of(rows)

    def logits_at(self, rows: Sequence[int]) -> Logits:
        if self._single:
            return self.logits.floats[:, : self.config.n_vocab].copy()
        return self.head_of(rows)

    def record(self, batch: Batch, tap: Tap) -> None:
        n = len(batch)
        if self._recording is None:
            self._recording = write_recording(self._batch_writer, self.weights, self.cache.layers)
            self.prepare(op.kernel for part in self._recording.parts for op in part.operations)
        recording = self._recording
        self.begin(batch, self.many)
        for index, part in enumerate(recording.parts):
            self.team.run(part.table, self.threads_batch)
            tap(index, recording.residual[:n], recording.activations[:n])
