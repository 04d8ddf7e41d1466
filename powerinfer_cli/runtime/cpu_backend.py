"""The CPU backend: a model's operations as two programs, one for a single token, one for a batch, run by a team."""

import math
from collections.abc import Iterable, Sequence

from powerinfer_cli.kernels.angles import rope_frequencies, rope_magnitude
from powerinfer_cli.kernels.attention import attention_kernels
from powerinfer_cli.kernels.cache import STORE, CacheType
from powerinfer_cli.kernels.jit import Kernel, prepare
from powerinfer_cli.kernels.packing import packing_kernels
from powerinfer_cli.kernels.program import assemble
from powerinfer_cli.kernels.rope import Angles
from powerinfer_cli.kernels.team import TEAM_KERNELS, Team
from powerinfer_cli.kernels.vectors import N_PAST, N_TOKENS, make_vectors
from powerinfer_cli.model import Weights
from powerinfer_cli.runtime.backend import Logits, Parts, Tap
from powerinfer_cli.runtime.cpu_program import Buffers, Writer, make_buffers, make_room
from powerinfer_cli.runtime.cpu_weights import matrices, pack_weights, with_scratch
from powerinfer_cli.runtime.options import EngineOptions
from powerinfer_cli.runtime.packed_cache import PackedCache
from powerinfer_cli.runtime.packer import Packer
from powerinfer_cli.runtime.recording import Recording, write_recording
from powerinfer_cli.runtime.threshold import sparse_threshold

__all__ = ["CPUBackend"]

COMPILING = "compiling kernels (once)"


class CPUBackend:
    """A team of threads, the packed weights, the KV cache, and the programs over them."""

    def __init__(self, parts: Parts) -> None:
        config, options = parts.config, parts.options
        self.config, self.n_ctx, self._stats, self._events = config, parts.n_ctx, parts.stats, parts.events
        self._cores = options.cores
        self._threads, self._threads_batch = options.threads
        self._threshold = -math.inf if options.all_active else sparse_threshold(config)
        predictors = config.sparse and not options.all_active
        tensors = list(matrices(parts.weights, predictors=predictors))
        types = CacheType(options.type_k), CacheType(options.type_v)
        kernels = (*attention_kernels(*types), *(STORE[kind] for kind in types))
        self._prepare([*TEAM_KERNELS, *kernels, *packing_kernels({tensor.type for tensor in tensors})])
        self._team = Team(max(options.threads), options.cores)
        packer = Packer(self._team, tensors, repack=options.repack, lock=options.mlock, events=parts.events)
        known = parts.statistics if predictors else None
        activities = [known.activity(i) if known else None for i in range(config.n_layer)]
        self._weights = pack_weights(parts.weights, packer, activities, predictors=predictors)
        self._cache = PackedCache(config, self.n_ctx, options.type_k, options.type_v)
        self._make_buffers(parts.weights, max(1, min(options.n_ubatch, options.n_batch, self.n_ctx)))
        self._write_programs()

    def _make_buffers(self, weights: Weights, n_tokens: int) -> None:
        """For one token, and for a batch of up to n_tokens."""
        config = self.config
        self._one = make_buffers(config, self._weights, 1)
        self._many = make_buffers(config, self._weights, n_tokens)
        self._angles_one, self._angles_many = (self._angles(weights, n) for n in (1, n_tokens))
        self._logits = make_vectors(1, config.n_vocab, records=False)
        self._many_logits = make_vectors(n_tokens, config.n_vocab, records=False)

    def _write_programs(self) -> None:
        """They depend on how many threads there are."""
        config = self.config
        room = make_room(config, len(self._many.ids), self._team.size)
        one = Writer(config, self._one, self._angles_one, self._threshold, self._threads, None)
        many = Writer(config, self._many, self._angles_many, self._threshold, self._threads_batch, room)
        caches = self._cache.layers
        token, batch = one.layers(self._weights, caches), many.layers(self._weights, caches)
        token[-1] += one.head(self._weights, one.left(self._weights.layers[-1]), self._logits.floats)
        batch[-1] += many.last_add(many.left(self._weights.layers[-1]))
        head = one.head(self._weights, (), self._logits.floats)
        heads = many.head(self._weights, (), self._many_logits.floats)
        self._prepare(op.kernel for ops in (*token, *batch, head, heads) for op in ops)
        self._token = assemble([op for ops in token for op in ops])
        self._batch = [assemble(ops) for ops in batch]
        self._head, self._heads = assemble(head), assemble(heads)
        self._batch_writer = many
        self._recording: Recording | None = None

    def use_threads(self, options: EngineOptions) -> None:
        self._threads, self._threads_batch = options.threads
        size = max(options.threads)
        if size > self._team.size:
            self._team.close()
            self._team = Team(size, self._cores)
            self._weights = with_scratch(self._weights, size)
        self._write_programs()

    def _prepare(self, kernels: Iterable[Kernel]) -> None:
        prepare(kernels, lambda done, total: self._events.progress(COMPILING, done, total))

    def _angles(self, weights: Weights, n_tokens: int) -> Angles | None:
        rope = self.config.rope
        if rope is None:
            return None
        divisors = weights.rope_freqs.to_float32() if weights.rope_freqs else None
        return Angles(n_tokens, rope_frequencies(rope, divisors), rope_magnitude(rope))

    def forward(self, ids: Sequence[int], n_past: int) -> None:
        single = len(ids) == 1
        buffers = self._one if single else self._many
        self._fill(buffers, self._angles_one if single else self._angles_many, ids, n_past)
        if single:
            self._team.run(self._token.table, self._threads)
        else:
            for part in self._batch:  # one at a time, so that Ctrl-C is heard between layers
                self._team.run(part.table, self._threads_batch)
        self._single, self._n_tokens = single, len(ids)
        if self.config.sparse:
            predicted, fired = buffers.counts.tolist()
            self._stats.add(self.config.n_layer * self.config.sizes.n_ff * len(ids), predicted, fired)

    def record(self, ids: Sequence[int], n_past: int, tap: Tap) -> None:
        n = len(ids)
        if self._recording is None:
            self._recording = write_recording(self._batch_writer, self._weights, self._cache.layers)
            self._prepare(op.kernel for part in self._recording.parts for op in part.operations)
        recording = self._recording
        self._fill(self._many, self._angles_many, ids, n_past)
        for index, part in enumerate(recording.parts):
            self._team.run(part.table, self._threads_batch)
            tap(index, recording.residual[:n], recording.activations[:n])

    @staticmethod
    def _fill(buffers: Buffers, angles: Angles | None, ids: Sequence[int], n_past: int) -> None:
        buffers.state[N_TOKENS], buffers.state[N_PAST] = len(ids), n_past
        buffers.ids[: len(ids)] = ids
        buffers.counts[:] = 0
        if angles is not None:
            angles.fill(n_past, len(ids))

    def last_logits(self) -> Logits:
        if not self._single:
            self._one.x.floats[0] = self._many.x.floats[self._n_tokens - 1]
            self._one.state[N_TOKENS] = 1
            self._team.run(self._head.table, self._threads)
            self._single = True
            self._n_tokens = 1
        return self._logits.floats[0, : self.config.n_vocab].copy()

    def all_logits(self) -> Logits:
        if self._single:
            return self.last_logits()[None]
        self._team.run(self._heads.table, self._threads_batch)
        return self._many_logits.floats[: self._n_tokens, : self.config.n_vocab].copy()

    def shift(self, n_past: int, n_keep: int, n_discard: int) -> bool:
        if self._angles_one is None:
            return False  # learned positions are inside the keys
        self._cache.shift(n_past, n_keep, n_discard, self._angles_one.frequencies)
        return True
