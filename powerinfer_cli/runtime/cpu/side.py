"""What a model has in main memory, and the team of threads that computes it: for all of a model, or for a part."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.cache import STORE, CacheType, KeysValues
from powerinfer_cli.kernels.cpu.attention.products import attention_kernels
from powerinfer_cli.kernels.cpu.packing import bundles, packing_kernels
from powerinfer_cli.kernels.cpu.rows import Bundled, WeightRows
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors, make_vectors
from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.kernels.jit import Kernel, not_kept, prepare
from powerinfer_cli.kernels.jit.program import Operation, assemble
from powerinfer_cli.kernels.jit.team import TEAM_KERNELS, Team
from powerinfer_cli.model.blocks import sources
from powerinfer_cli.placement import MAIN_MEMORY, Plan
from powerinfer_cli.runtime.backend import Hidden, Logits, Parts, WatchRoutes
from powerinfer_cli.runtime.batch import Batch, BatchKind
from powerinfer_cli.runtime.context.cache_size import kv_bytes, overflow_bytes
from powerinfer_cli.runtime.context.pages import Cells, Held
from powerinfer_cli.runtime.cpu.buffers import Buffers, make_buffers, make_room
from powerinfer_cli.runtime.cpu.cache import PackedCache, check_types
from powerinfer_cli.runtime.cpu.experts import routes_of
from powerinfer_cli.runtime.cpu.ffn import NOTHING
from powerinfer_cli.runtime.cpu.packer import Packer
from powerinfer_cli.runtime.cpu.program import Writer
from powerinfer_cli.runtime.cpu.weights import Uses, bundled_matrices, matrices, pack_weights, tables, with_scratch
from powerinfer_cli.runtime.logits import finish_logits
from powerinfer_cli.runtime.options import EngineOptions
from powerinfer_cli.runtime.threshold import effective_threshold
from powerinfer_cli.system.memory import forget_code

__all__ = ["CPUSide"]

COMPILING = "compiling kernels (once)"


class CPUSide(ABC):
    """Packed weights, a KV cache for the layers that are here, buffers, and the programs over them.

    `layers`: the numbers in the model of the layers that are here.
    """

    def __init__(self, parts: Parts, plan: Plan, adapting: Uses | None = None) -> None:
        """adapting: see `pack_weights`."""
        model, config, options = parts.model, parts.config, parts.options
        self.config, self.pages, self._events, self._model = config, parts.pages, parts.events, model
        self._cores = options.cores
        self.threads, self.threads_batch = options.threads
        self.threshold = effective_threshold(config, options)
        self.layers = [i for i, placed in enumerate(plan.layers) if placed.device == MAIN_MEMORY]
        here = {i: model.layers[i] for i in self.layers}
        elsewhere = {i: model.layers[i] for i in sorted(sources(here.values()) - here.keys())}
        predictors = config.sparse and not options.all_active
        wanted = {"predictors": predictors, "repack": options.repack}
        tensors = [one for one in matrices(model, plan, adapting, **wanted) if one.name not in parts.packed]
        check_types(model.layers, options.type_k, options.type_v)  # also of those on devices
        types = CacheType(options.type_k), CacheType(options.type_v)
        if not config.causal:
            types = CacheType.F32, CacheType.F32
        kernels = (*attention_kernels(*types), *(STORE[kind] for kind in types))
        few = options.drafting or self.pages.n_sequences > 1
        found = bundled_matrices(model, plan, predictors=predictors)
        bundled = {one.name: of for one, of in found if bundles(one.type, of, repack=options.repack)}
        by_rows, asked, whole = (
            {one.type for one in tensors if bundled.get(one.name) is kind}
            for kind in (None, Bundled.ASKED, Bundled.WHOLE)
        )
        packing = packing_kernels(by_rows, few=few, asked=asked, whole=whole)
        self.prepare([*TEAM_KERNELS, *kernels, *packing])
        self.team = Team(max(options.threads), options.cores)
        packer = Packer(
            self.team,
            tensors,
            packed=parts.packed,
            tables=tables(model),
            bundled=bundled,
            besides=kv_bytes([*here.values(), *elsewhere.values()], self.pages.extent, *types)
            + overflow_bytes(model.layers, plan.layers, self.pages.extent, *types),
            repack=options.repack,
            lock=options.mlock,
            events=parts.events,
        )
        known = parts.statistics if predictors else None
        self.weights = pack_weights(model, packer, known, plan, adapting, **wanted)
        self.cache = PackedCache(here, self.pages.extent, options.type_k, options.type_v, elsewhere)
        ropes = {layer.attention.rope for layer in model.layers}
        n_ctx = self.pages.n_ctx_sequence
        self._frequencies = {rope: rope.frequencies(n_ctx) for rope in ropes if rope is not None}
        self._can_shift = not config.learned_positions  # these are inside the keys
        self.most_few = options.few_tokens(self.pages.n_ctx, FEW)
        self._make_buffers(options.most_tokens(self.pages.n_ctx))
        self.write_programs()

    def _make_buffers(self, n_tokens: int) -> None:
        """For one token, and for a batch of up to n_tokens."""
        n_embd, n_ctx, n_vocab = self.config.n_embd, self.pages.n_ctx_sequence, self.config.n_vocab
        self.one = make_buffers(n_embd, self.weights, 1, 1, n_ctx)
        self.many = make_buffers(n_embd, self.weights, n_tokens, self.pages.n_sequences, n_ctx)
        n_vocab = n_vocab if self.config.writes else 1
        self.logits = make_vectors(1, n_vocab, records=False)
        self.many_logits = make_vectors(n_tokens, n_vocab, records=False)

    def write_programs(self) -> None:
        """They depend on how many threads there are."""
        self.room = make_room(self.config.n_embd, self.weights, len(self.many.ids), self.team.size)
        one = Writer(self.one, self.threshold, self.threads)
        # What an encoder makes is a direction, which small errors hardly turn; what follows a text may change by them.
        many = Writer(self.many, self.threshold, self.threads_batch, self.room, fixed=not self.config.causal)
        few = Writer(self.many, self.threshold, self.threads, few=self.most_few, panels=self.room.panels)
        head: list[Operation] = []
        heads: list[Operation] = []
        head_of_few: list[Operation] = []
        if self.weights.head is not None:
            head = one.head(self.weights, NOTHING, self.logits.floats)
            heads = many.head(self.weights, NOTHING, self.many_logits.floats)
            head_of_few = few.head(self.weights, NOTHING, self.many_logits.floats)
        self.prepare(op.kernel for op in (*head, *heads, *head_of_few))
        self._head, self._heads, self._head_of_few = assemble(head), assemble(heads), assemble(head_of_few)
        self._norm = assemble(heads[:1])
        self.write_layers(one, few, many)

    @abstractmethod
    def write_layers(self, one: Writer, few: Writer, many: Writer) -> None:
        """The programs of those who derive from this: for one token, for up to `most_few` of as many sequences, and
        for a batch.
        """

    def packed_ends(self) -> dict[str, WeightRows]:
        """As a backend's."""
        tables = zip(self._model.embedding.tables[:1], self.weights.embedding.tables[:1], strict=True)
        found = {tensor.name: rows for tensor, rows in tables}
        head = self.weights.head
        if head is None or head.output is None:
            return found
        return found | {self._model.head.weight.name: head.weight}

    def close(self) -> None:
        """End its threads."""
        self.team.close()

    def use_threads(self, options: EngineOptions) -> None:
        """Compute with as many threads as these options say from now on."""
        self.threads, self.threads_batch = options.threads
        size = max(options.threads)
        if size > self.team.size:
            self.team.close()
            self.team = Team(size, self._cores)
            self.weights = with_scratch(self.weights, size)
        self.write_programs()

    def buffers_for(self, kind: BatchKind) -> Buffers:
        """A few tokens lie where many would."""
        return self.one if kind is BatchKind.ONE else self.many

    def threads_for(self, kind: BatchKind) -> int:
        return self.threads_batch if kind is BatchKind.MANY else self.threads

    def begin(self, batch: Batch, buffers: Buffers) -> None:
        """Tell the programs over one or many tokens' buffers which tokens are next."""
        windowed = self.pages.windowed or self.pages
        for state, rows in ((buffers.segments, self.pages.tables), (buffers.windowed, windowed.tables)):
            segments = [(s.n_tokens, s.n_past, rows[s.sequence]) for s in batch.segments]
            state.fill(segments, [s.sequence for s in batch.segments])
        buffers.ids[: len(batch)] = batch.ids
        if batch.hidden is not None:
            self.give(batch.hidden, buffers)
        buffers.counts[:], buffers.few_counts[:] = 0, 0
        for angles in buffers.angles.values():
            angles.fill(batch.positions)
        for temperature, numbers in buffers.temperatures.items():
            numbers[: len(batch)] = temperature.at(batch.positions)

    def give(self, hidden: Hidden, buffers: Buffers) -> None:
        """What comes with the tokens, where something does."""
        if buffers.given is not None:
            buffers.given.floats[: len(hidden), : self.config.n_embd] = hidden

    def show_routes(self, place: int, n_tokens: int, watch: WatchRoutes) -> None:
        """What the router of a layer, by its place among those that are here, has chosen for a batch, if it has one."""
        routes = routes_of(self.weights.layers[place].block, self.many.routed)
        if routes is not None:
            watch(self.layers[place], routes.chosen[:n_tokens])

    def head_of_one(self) -> Logits:
        """The logits [1, n_vocab] of the one token's x."""
        self.one.state[N_TOKENS] = 1
        self.team.run(self._head.table, self.threads)
        return self.finished(self.logits, slice(None))

    def head_of(self, rows: Sequence[int]) -> Logits:
        """The logits [len(rows), n_vocab] of these rows, ascending, of the batch's x, which go to its first places."""
        if len(rows) == 1:
            self.one.x.floats[0] = self.many.x.floats[rows[0]]
            return self.head_of_one()
        for to, row in enumerate(rows):
            if to != row:
                self.many.x.floats[to] = self.many.x.floats[row]
        self.many.state[N_TOKENS] = len(rows)
        if len(rows) <= self.most_few:  # as one would be, to the bit
            self.team.run(self._head_of_few.table, self.threads)
        else:
            self.team.run(self._heads.table, self.threads_batch)
        return self.finished(self.many_logits, slice(len(rows)))

    def finished(self, products: Vectors, rows: slice | list[int]) -> Logits:
        """The logits of these rows of the head's products, [n, n_vocab]; once for each."""
        found: Logits = products.floats[rows, : self.config.n_vocab].copy()
        return finish_logits(self._model.head, found)

    def hidden_of(self, rows: slice) -> Hidden:
        """The hidden states [n, n_embd], behind the last norm, of these rows of the batch's x."""
        self.team.run(self._norm.table, self.threads_batch)
        return self.last_of(self.many).floats[rows, : self.config.n_embd].copy()

    def last_of(self, buffers: Buffers) -> Vectors:
        """What holds hidden states once the head has run, or its norm."""
        return buffers.x if self._model.head.norm is None else buffers.normed

    def shift(self, sequence: int, n_past: int, n_keep: int, n_discard: int) -> bool:
        """As a backend's."""
        if not self._can_shift:
            return False

        def moves(window: int | None) -> tuple[Cells, Cells]:
            return self.pages.of(window).moves(sequence, n_past, n_keep, n_discard)

        self.cache.shift(moves, n_discard, self._frequencies)
        return True

    def read_cells(self, held: Held) -> dict[str, npt.NDArray[Any]]:
        """As a backend's, for the layers that are here."""
        found: dict[str, npt.NDArray[Any]] = {}
        for number, layer, window in self._caches():
            found |= {f"{number}.{name}": part for name, part in layer.stored(held.of(window)).items()}
        return found

    def write_cells(self, held: Held, stored: Mapping[str, npt.NDArray[Any]]) -> None:
        """As a backend's, for the layers that are here; nothing is written where anything is wrong."""
        parts: dict[int, dict[str, npt.NDArray[Any]]] = {number: {} for number, _, _ in self._caches()}
        for name, part in stored.items():
            place, _, kind = name.partition(".")
            if not place.isdecimal() or int(place) not in parts:
                raise PowerInferError(f"a saved context has {name}, which this model has not")
            parts[int(place)][kind] = part
        try:
            for number, layer, window in self._caches():
                layer.check(held.of(window), parts[number])
        except ValueError as error:
            raise PowerInferError(f"a saved context is not for this model and these cache types: {error}") from error
        for number, layer, window in self._caches():
            layer.store(held.of(window), parts[number])

    def read_states(self, sequence: int) -> dict[int, npt.NDArray[np.float32]]:
        """As a backend's, for the layers that are here."""
        return {number: cache.states[sequence].copy() for number, cache, _ in self._caches() if cache.states.size}

    def write_states(self, sequence: int, states: Mapping[int, npt.NDArray[np.float32]]) -> None:
        """As a backend's, for the layers that are here."""
        for number, cache, _ in self._caches():
            if cache.states.size:
                cache.states[sequence] = states[number]

    def _caches(self) -> Iterator[tuple[int, KeysValues, int | None]]:
        """Of the layers that are here and keep something: their number, cache and window."""
        for number, layer in zip(self.layers, self.weights.layers, strict=True):
            if number in self.cache.kept:
                yield number, self.cache.kept[number], layer.block.attention.window

    def prepare(self, kernels: Iterable[Kernel]) -> None:
        """Compile what is not compiled yet. A full disk is worth a word."""
        wanted = list(kernels)
        if all(kernel.ready for kernel in wanted):
            return
        before = not_kept()
        prepare(wanted, lambda done, total: self._events.progress(COMPILING, done, total))
        forget_code("llvmlite")  # 50 MB that are not used again
        after = not_kept()
        if after is not None and before is None:
            self._events.note(f"warning: compiled kernels cannot be kept ({after}): they serve this run only")
