"""The CPU backend: a model's operations as programs, for a single token, for a few, and for a batch, run by a team."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import assert_never

from powerinfer_cli.kernels.jit.program import Operation, assemble
from powerinfer_cli.placement import main_memory_plan
from powerinfer_cli.runtime.backend import Hidden, Logits, Parts, Watch, WatchInputs, WatchRoutes
from powerinfer_cli.runtime.batch import Batch, BatchKind
from powerinfer_cli.runtime.cpu.importance import Summing, SummingWriter
from powerinfer_cli.runtime.cpu.program import Writer
from powerinfer_cli.runtime.cpu.recording import HaltedWriter, Recording, every_neuron
from powerinfer_cli.runtime.cpu.side import CPUSide
from powerinfer_cli.runtime.cpu.tail import Waiting, narrowed, tail_of

__all__ = ["CPUBackend"]


class CPUBackend(CPUSide):
    """Everything is in main memory: one program carries a token from its id to its logits."""

    def __init__(self, parts: Parts) -> None:
        self._stats, self._kind = parts.stats, BatchKind.MANY
        self._stats.grow(parts.config.n_layer)
        self._n_ff = parts.counted_neurons
        self._counts = bool(self._n_ff.any())
        super().__init__(parts, main_memory_plan(parts.config.n_layer))

    def write_layers(self, one: Writer, few: Writer, many: Writer) -> None:
        caches, last = self.cache.layers, self.weights.layers[-1]
        self._tail = tail_of([layer.block for layer in self.weights.layers])
        token, batch = one.layers(self.weights, caches), many.layers(self.weights, caches, self._tail)
        token[-1] += one.head(self.weights, one.left(last), self.logits.floats)
        batch[-1] += many.last_add(many.left(last))
        tokens: list[list[Operation]] = []
        if self.most_few > 1:
            tokens = few.layers(self.weights, caches)
            tokens[-1] += few.head(self.weights, few.left(last), self.many_logits.floats)
        self.prepare(op.kernel for ops in (*token, *tokens, *batch) for op in ops)
        self._token, self._few = (assemble([op for ops in part for op in ops]) for part in (token, tokens))
        self._batch = [assemble(ops) for ops in batch]
        self._batch_writer = many
        self._waiting: Waiting | None = None
        self._recording: Recording | None = None
        self._summing: Summing | None = None

    def forward(self, batch: Batch) -> None:
        self._begin(batch, self._kind_of(batch))
        self._run(batch)

    def foresee(self, batch: Batch) -> Callable[[Hidden], None]:
        self._begin(batch, self._kind_of(batch))
        return partial(self._run_given, batch)

    def record_routes(self, batch: Batch, watch: WatchRoutes) -> None:
        self._begin(batch, BatchKind.MANY)
        self._run(batch, watch)

    def _kind_of(self, batch: Batch) -> BatchKind:
        """Texts of encoders are batches, however short, so that company changes no bit of them."""
        return batch.kind if self.config.causal else BatchKind.MANY

    def _begin(self, batch: Batch, kind: BatchKind) -> None:
        self._kind = kind
        self.begin(batch, self.buffers_for(kind))

    def _run_given(self, batch: Batch, hidden: Hidden) -> None:
        self.give(hidden, self.buffers_for(self._kind))
        self._run(batch)

    def _run(self, batch: Batch, watch: WatchRoutes | None = None) -> None:
        """What was begun. watch: of many tokens."""
        kind = self._kind
        buffers = self.buffers_for(kind)
        match kind:
            case BatchKind.ONE:
                self.team.run(self._token.table, self.threads)
            case BatchKind.FEW:
                self.team.run(self._few.table, self.threads)
            case BatchKind.MANY:
                self._run_many(batch, watch)
            case never:
                assert_never(never)
        if self._counts:
            if kind is BatchKind.FEW:
                passed = buffers.few_counts.copy()
                self._stats.trials.count(batch, lambda t: self._stats.add(slice(None), self._n_ff, passed[:, t]))
            else:
                self._stats.add(slice(None), self._n_ff * len(batch), buffers.counts)

    def _run_many(self, batch: Batch, watch: WatchRoutes | None) -> None:
        """Up to the tail, where there is one and nobody watches; the rest when it is asked for."""
        self._waiting = None
        waits = watch is None and self._tail < len(self._batch)
        for place in range(self._tail if waits else len(self._batch)):  # so that Ctrl-C is heard between layers
            self.team.run(self._batch[place].table, self.threads_batch)
            if watch is not None:
                self.show_routes(place, len(batch), watch)
        if waits:
            self._waiting = Waiting.of(batch, self.many)

    def _behind_tail(self, rows: Sequence[int]) -> Sequence[int]:
        """Where these tokens of the batch are, ascending, once they have passed all layers."""
        waiting = self._waiting
        if waiting is None:
            return rows
        found: Sequence[int] = range(len(rows))
        batch = narrowed(waiting.batch, rows)
        if batch is None or len(batch) == len(waiting.batch):
            batch, found, self._waiting = waiting.batch, rows, None
        waiting.put(range(len(batch)) if self._waiting is None else rows, self.many)
        self.begin(batch, self.many)
        for part in self._batch[self._tail :]:
            self.team.run(part.table, self.threads_batch)
        return found

    def hidden_at(self, rows: slice) -> Hidden:
        if self._kind is BatchKind.MANY:
            if self._waiting is None:
                return self.hidden_of(rows)
            found = self._behind_tail(range(len(self._waiting.batch))[rows])
            return self.hidden_of(slice(found[0], found[-1] + 1))
        last = self.last_of(self.buffers_for(self._kind))  # the head has run
        return last.floats[rows, : self.config.n_embd].copy()

    def logits_at(self, rows: Sequence[int]) -> Logits:
        match self._kind:
            case BatchKind.ONE:
                return self.finished(self.logits, slice(None))
            case BatchKind.FEW:
                return self.finished(self.many_logits, list(rows))
            case BatchKind.MANY:
                return self.head_of(self._behind_tail(rows))
            case never:
                assert_never(never)

    def experts(self) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
        return {}

    def record(self, batch: Batch, watch: Watch) -> None:
        self._kind, self._waiting = BatchKind.MANY, None
        if self._recording is None:
            self._recording = self._write_recording()
        self.begin(batch, self.many)
        self._recording.run(self.team, self.threads_batch, self.layers, len(batch), watch)

    def _write_recording(self) -> Recording:
        writer, weights = HaltedWriter(self._batch_writer), every_neuron(self.weights)
        layers = writer.layers(weights, self.cache.layers)
        layers[-1] += writer.last_add(writer.left(weights.layers[-1]))
        self.prepare(op.kernel for ops in layers for op in ops)
        return writer.recording(layers)

    def record_inputs(self, batch: Batch, watch: WatchInputs) -> None:
        """As `forward`; `watch` is called for the matrices of each layer, layers in order."""
        self._kind, self._waiting = BatchKind.MANY, None
        if self._summing is None:
            self._summing, operations = SummingWriter(self._batch_writer).summing(self.weights, self.cache.layers)
            self.prepare(op.kernel for op in operations)
        self.begin(batch, self.many)
        self._summing.run(self.team, self.threads_batch, self.layers, len(batch), watch)
