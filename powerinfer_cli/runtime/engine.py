"""Engine: prefill and decode over one model and one KV cache, for one sequence of tokens or for several at once."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from time import perf_counter
from typing import TypeAlias, TypeVar

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit
from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.model import Model, Predictors, load_model
from powerinfer_cli.model.blocks import leaves, recurrent_layers
from powerinfer_cli.placement import ActivationStatistics, Placement
from powerinfer_cli.runtime.backend import AskingBackend, Backend, Floats, Hidden, Logits, Parts
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.cache_size import context_size, extent_of
from powerinfer_cli.runtime.context.held import HeldContext
from powerinfer_cli.runtime.context.pages import PageTable
from powerinfer_cli.runtime.context.sequences import ContextFull, Sequences
from powerinfer_cli.runtime.context.states import States
from powerinfer_cli.runtime.executors import Executor, backend_of
from powerinfer_cli.runtime.neurons import neurons_of, sizes_of
from powerinfer_cli.runtime.options import EngineOptions, LoadEvents
from powerinfer_cli.runtime.recorder import Recorder, batched
from powerinfer_cli.runtime.scoring import TextScorer, scorer_of
from powerinfer_cli.runtime.stats import Drafted, LayerNeurons, SparsityStats
from powerinfer_cli.runtime.step import Answer, Piece, Wanted, ask, asked_rows, hidden_of, passes
from powerinfer_cli.runtime.whole_texts import check_writes, longest_text, whole_text_options

__all__ = ["Change", "ContextFull", "Engine"]

Change: TypeAlias = Callable[[int, Floats], None]  # layer, activations [T, n_ff], which it may write to
HiddenWatch: TypeAlias = Callable[[Batch, Hidden], None]

Given = TypeVar("Given")
Found = TypeVar("Found")


class Engine(HeldContext, Recorder):
    """Appends tokens to its context and tells the logits of what may come next.

    `step` serves several sequences; calls that name none are about sequence 0.
    """

    def __init__(
        self,
        model: Model,
        options: EngineOptions,
        statistics: ActivationStatistics | None = None,
        events: LoadEvents | None = None,
        placement: Placement | None = None,
        beside: "Engine | None" = None,
        executor: Executor | None = None,
    ) -> None:
        """Build the layers of a model where a placement says; without one, in main memory. beside: another over the
        same file, whose embedding and head are used where the model has the same. executor: who computes, if not this
        machine alone.

        Raises:
            PowerInferError: a context that does not fit.
        """
        self.config = model.config
        events = events or LoadEvents()
        for line in model.notes:
            events.note(line)
        self._longest = None if model.config.causal else longest_text(options, model.config)
        self.options = options = options if model.config.causal else whole_text_options(options, model.config)
        self.stats = SparsityStats()
        self._placement = placement if placement is not None and placement.plan.gpus else None
        self.has_experts = model.has_experts
        self._matrices = [[one.name for one in leaves(layer)[0]] for layer in model.layers]
        packed = options.repack and not options.reference and self._placement is None
        n_ctx = self._placement.n_ctx if self._placement else None if model.config.causal else options.n_ctx
        self._executor = executor
        if executor is not None:
            n_ctx = executor.n_ctx
        if n_ctx is None:
            n_ctx = context_size(model, options, model.nbytes if packed else 0)
        self._pages = PageTable(extent_of(model.layers, options, n_ctx))
        parts = Parts(model, options, self.stats, statistics, self._pages, events)
        if beside is not None:
            parts = replace(parts, packed=beside._backend.packed_ends())
        try:
            self._backend: Backend = executor.backend(parts) if executor else backend_of(parts, self._placement)
        except MemoryError as error:
            raise PowerInferError(
                f"no memory for the model with a context of {n_ctx} tokens and batches of {self.most_tokens}: "
                "choose a smaller context (-c, n_ctx) or smaller batches (-ub, n_ubatch)"
            ) from error
        self._asking = self._backend if isinstance(self._backend, AskingBackend) else None
        self._sequences = Sequences(self._pages, self.config.n_vocab)
        self._windowed = [i for i, layer in enumerate(model.layers) if layer.attention.window is not None]
        self._sizes = sizes_of(model)
        self._scorer = model.scorer
        self._events = events
        self._watch: HiddenWatch | None = None
        self._states: States | None = None
        if recurrent_layers(model.layers):
            saved = options.ctx_checkpoints, options.checkpoint_min_step
            self._states = States(model.layers, self._backend, self.n_sequences, *saved)
            events.note(self._states.line)

    @classmethod
    def load(
        cls,
        gguf: GGUFFile,
        options: EngineOptions | None = None,
        statistics: ActivationStatistics | None = None,
        events: LoadEvents | None = None,
        placement: Placement | None = None,
        *,
        predictors: Predictors | None = None,
    ) -> "Engine":
        """The same from a file. `predictors` make a dense model sparse, and replace those of a sparse one.

        Raises:
            PowerInferError: what `load_model` raises, or a context that does not fit.
        """
        model = load_model(gguf, predictors, CompiledFit())
        return cls(model, options or EngineOptions(), statistics, events, placement)

    @property
    def n_ctx_sequence(self) -> int:
        """The most tokens of one sequence."""
        return self._pages.n_ctx_sequence if self._longest is None else self._longest

    @property
    def most_tokens(self) -> int:
        """Of one step."""
        return self.options.most_tokens(self.n_ctx)

    @property
    def most_stepwise(self) -> int:
        """Of a stepwise piece."""
        return min(FEW, self.most_tokens) if self.options.drafting else 1

    @property
    def n_groups(self) -> int:
        """So many steps keep all busy that compute, where each is begun before the one before it has ended."""
        return 1 if self._asking is None else self._asking.n_groups

    def step(self, pieces: Sequence[Piece]) -> list[Answer]:
        """Append tokens to several sequences; what each piece wants to be told.

        Single tokens and stepwise pieces pass the weights together, longer pieces together behind them.

        At most one piece for a sequence, and `most_tokens` tokens in all. A sequence's results are the same whatever
        the other sequences are given: in main memory to the bit, on GPUs up to rounding.

        Raises:
            ContextFull: a sequence has no room for its tokens (nothing was appended).
        """
        return self._begin(pieces)()

    def begin(self, pieces: Sequence[Piece]) -> Callable[[], list[Answer]]:
        """The same in halves: tokens are appended now, and their answers waited for when that is called, which may be
        after other steps. A sequence of a step that has not ended yet may be cut or appended to.
        """
        return self._begin(pieces)

    def _begin(self, pieces: Sequence[Piece]) -> Callable[[], list[Answer]]:
        parts = [(piece.sequence, piece.ids) for piece in pieces]
        if not all(ids for _, ids in parts) or len({sequence for sequence, _ in parts}) < len(parts):
            raise ValueError("each piece needs tokens and a sequence of its own")
        if any(piece.is_stepwise and len(piece.ids) > self.most_stepwise for piece in pieces):
            raise ValueError(f"{self.most_stepwise} tokens at most go stepwise here")
        check_writes(self.config, pieces)
        self._check(parts)
        told: list[tuple[list[int], Callable[[], list[Answer]]]] = []
        for passed in passes(pieces):
            own = [pieces[i] for i in passed]
            batch = self._forward(
                [parts[i] for i in passed],
                stepwise=own[0].is_stepwise,
                hidden=hidden_of(own),
                counted=[piece.counted for piece in own],
                asked=[] if any(piece.wanted is Wanted.HIDDEN for piece in own) else asked_rows(own),
            )
            told.append((passed, ask(own, batch.segments, self._ask_hidden, self._ask_logits)))
        return partial(_in_order, told)

    def prefill(
        self,
        ids: Sequence[int],
        on_batch: Callable[[int, int], None] | None = None,
        change: Change | None = None,
        tails: Sequence[int] = (),
    ) -> Logits:
        """Append ids, a batch at a time; the logits [n_vocab] that follow the last. `on_batch(done, all)` is progress.

        tails: that from so many tokens before their end on others are likely to come instead, descending; states of
        recurrent layers are saved there.
        With `change` every neuron is computed, and change(layer, activations [T, n_ff]) may write to what meets the
        down matrix; nothing is counted.

        Raises:
            ContextFull: the context has no room for them (nothing was appended).
        """
        if not ids:
            raise ValueError("no tokens to evaluate")
        check_writes(self.config)
        self._check([(0, ids)])
        done = 0
        places = [len(ids) - one for one in self.begin_prompt(len(ids), tails=tails)]
        cuts = [0, *(one for one in places if one > 1), len(ids)]
        for begin, end in pairwise(cuts):
            for batch in batched(ids[begin:end], self.most_tokens):
                done += len(batch)
                self._forward([(0, batch)], change, asked=[len(batch) - 1] if done == len(ids) else [])
                if on_batch:
                    on_batch(done, len(ids))
        last: Logits = self._logits_at([len(batch) - 1])[0]
        return last

    def watch_hidden(self, watch: HiddenWatch) -> None:
        """Have a pass's hidden states [T, n_embd], behind the last norm, told whenever tokens were appended."""
        self._watch = watch

    @cached_property
    def scorer(self) -> TextScorer:
        """What ranks texts by their pooled vectors. Raises PowerInferError: nothing does."""
        return scorer_of(self._scorer)

    def ahead(self, sequence: int, token: int) -> Logits | None:
        """Append a token whose logits are known already: these, [n_vocab]; None where they are not."""
        return None

    def begin_drafts(self, sequence: int, most: int | None = None, least: int | None = None) -> None:
        """A sequence's text begins anew for `drafted`. Tokens of its drafts; None: as usual."""

    def drafted(self, sequence: int = 0) -> Drafted:
        """What was proposed for a sequence's text."""
        return Drafted()

    def decode(self, token: int) -> Logits:
        """Append one token; the logits [n_vocab] that follow it. Raises ContextFull."""
        check_writes(self.config)
        self._forward([(0, [token])], asked=[0])
        following: Logits = self._logits_at([0])[0]
        return following

    def logits(self, ids: Sequence[int], change: Change | None = None) -> Logits:
        """Append ids; the logits after each of them, [len(ids), n_vocab]. change: as in `prefill`.

        Raises ContextFull.
        """
        check_writes(self.config)
        self._check([(0, ids)])
        found = [np.empty((0, self.config.n_vocab), np.float32)]
        for batch in batched(ids, self.most_tokens):
            self._forward([(0, batch)], change, asked=range(len(batch)))
            found.append(self._logits_at(range(len(batch))))
        return np.concatenate(found)

    def shift(self, n_keep: int, n_discard: int, sequence: int = 0) -> None:
        """Drop a sequence's tokens [n_keep, n_keep + n_discard) and move the rest down to their place."""
        held = list(self.tokens_of(sequence))
        if n_keep < 0 or n_discard < 0 or n_keep + n_discard > len(held):
            raise ValueError(f"cannot drop {n_discard} tokens after {n_keep} of {len(held)}")
        moved = held[n_keep + n_discard :]
        can_move = self._states is None and self._sequences.can_shift(sequence, n_keep, n_discard)
        if can_move and self._backend.shift(sequence, len(held), n_keep, n_discard):
            self._sequences.shift(sequence, n_keep, n_discard)
            return
        if self._states is not None:
            self._states.say_once(self._events.note)
        known = self.truncate(n_keep, sequence)
        for batch in batched([*held[known:n_keep], *moved], self.most_tokens):
            self._forward([(sequence, batch)])

    def use_threads(self, n_threads: int | None = None, n_threads_batch: int | None = None) -> None:
        """Change how many threads compute, as EngineOptions counts them. Weights, context and results stay the same."""
        self.options = replace(self.options, n_threads=n_threads, n_threads_batch=n_threads_batch)
        self._backend.use_threads(self.options)

    def close(self) -> None:
        """End its threads; whoever drops it then frees its memory. It computes nothing any more."""
        self._backend.close()

    @property
    def devices(self) -> tuple[str, ...]:
        """Those that a plan has put something on, as torch names them."""
        own = () if self._placement is None else self._placement.used
        return own if self._executor is None else self._executor.devices

    def neurons(self) -> tuple[LayerNeurons, ...]:
        """Of each layer; shares are means since the last reset of `stats`."""
        plan = None if self._placement is None else self._placement.plan
        return neurons_of(self._sizes, plan, self.stats, self._backend)

    def _check(self, parts: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Can (sequence, ids) be appended? Raises ContextFull, or PowerInferError for ids that are none."""
        longest = max((len(ids) for _, ids in parts), default=0)
        if self._longest is not None and longest > self._longest:
            raise ContextFull(f"a text of {longest} tokens is longer than the model takes, which is {self._longest}")
        self._sequences.check(parts)

    def _logits_at(self, rows: Sequence[int]) -> Logits:
        return self._timed(self._backend.logits_at, rows)

    def _hidden_at(self, rows: slice) -> Hidden:
        return self._timed(self._backend.hidden_at, rows)

    def _ask_logits(self, rows: Sequence[int]) -> Callable[[], Logits]:
        if self._asking is None:
            return partial(_known, self._logits_at(rows))
        return partial(self._timed, _called, self._asking.ask_logits(rows))

    def _ask_hidden(self, rows: slice) -> Callable[[], Hidden]:
        if self._asking is None:
            return partial(_known, self._hidden_at(rows))
        return partial(self._timed, _called, self._asking.ask_hidden(rows))

    def _timed(self, work: Callable[[Given], Found], given: Given) -> Found:
        """What it finds; its time counts as computing."""
        seconds = self.stats.seconds
        begin, cold = perf_counter(), seconds.cold
        found = work(given)
        took = perf_counter() - begin
        seconds.total += took
        seconds.outside_cold += took - (seconds.cold - cold)
        return found

    def _forward(
        self,
        parts: Sequence[tuple[int, Sequence[int]]],
        change: Change | None = None,
        *,
        stepwise: bool = False,
        hidden: Hidden | None = None,
        counted: Sequence[int] = (),
        asked: Sequence[int] = (),
    ) -> Batch:
        """Append (sequence, ids). change: as in `prefill`; stepwise, hidden, counted: as pieces'; asked: a batch's."""
        if change is not None:
            self._check_recordable()
        self._check(parts)
        batch = self._sequences.batch(parts, stepwise, hidden, counted, asked if self._watch is None else ())
        if self._states is not None:
            self._states.enter(batch)
        self.stats.trials.begin(batch)
        try:
            if change is None:
                self._timed(self._backend.forward, batch)
            else:
                self._backend.record(batch, partial(_change, change))
            if self.config.causal:
                self._sequences.note(parts)
            if self._states is not None:
                self._states.leave(batch)
        finally:
            self._sequences.give_back()
        if self._watch is not None:
            self._watch(batch, self._hidden_at(slice(0, len(batch))))
        return batch


def _change(change: Change, layer: int, _: Floats, activations: Floats) -> None:
    change(layer, activations)


def _in_order(told: Sequence[tuple[Sequence[int], Callable[[], list[Answer]]]]) -> list[Answer]:
    """Answers of passes, by the numbers of their pieces."""
    found = {i: answer for passed, take in told for i, answer in zip(passed, take(), strict=True)}
    return [found[i] for i in range(len(found))]


def _known(found: Found) -> Found:
    return found


def _called(take: Callable[[], Found]) -> Found:
    return take()
