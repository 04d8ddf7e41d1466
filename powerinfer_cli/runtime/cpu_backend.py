"""The CPU backend: a model's operations as two programs, one for a single token, one for a batch, run by a team."""

from collections.abc import Sequence

from powerinfer_cli.kernels.program import assemble
from powerinfer_cli.placement import main_memory_plan
from powerinfer_cli.runtime.backend import Logits, Parts, Tap
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

    def forward(self, ids: Sequence[int], n_past: int) -> None:
        single = len(ids) == 1
        buffers = self.one if single else self.many
        self.begin(ids, n_past, buffers)
        if single:
            self.team.run(self._token.table, self.threads)
        else:
            for part in self._batch:  # one at a time, so that Ctrl-C is heard between layers
                self.team.run(part.table, self.threads_batch)
        self._single, self._n_tokens = single, len(ids)
        if self.config.sparse:
            predicted, fired = buffers.counts.tolist()
            self._stats.add(self.config.n_layer * self.config.sizes.n_ff * len(ids), predicted, fired)

    def last_logits(self) -> Logits:
        if not self._single:
            self.one.x.floats[0] = self.many.x.floats[self._n_tokens - 1]
            self.head_of_one()
            self._single = True
            self._n_tokens = 1
        return self.logits.floats[0, : self.config.n_vocab].copy()

    def all_logits(self) -> Logits:
        if self._single:
            return self.last_logits()[None]
        return self.head_of_many(self._n_tokens)

    def record(self, ids: Sequence[int], n_past: int, tap: Tap) -> None:
        n = len(ids)
        if self._recording is None:
            self._recording = write_recording(self._batch_writer, self.weights, self.cache.layers)
            self.prepare(op.kernel for part in self._recording.parts for op in part.operations)
        recording = self._recording
        self.begin(ids, n_past, self.many)
        for index, part in enumerate(recording.parts):
            self.team.run(part.table, self.threads_batch)
            tap(index, recording.residual[:n], recording.activations[:n])
