"""A loaded model with its tokenizer and sampler, and the loop that makes text with them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from powerinfer_cli.commands.main.timings import Timings, draft_line
from powerinfer_cli.commands.shared.interrupts import Interrupt, Interruption
from powerinfer_cli.drafting import DraftingEngine, DraftOptions
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.opening import ExecutorChoice, PlacementWishes, open_model, start_ids
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents, common_prefix, peak_memory
from powerinfer_cli.sampling import Sampler, SamplerOptions, TokenBreakers, build_sampler
from powerinfer_cli.sampling.grammars.constrained import sample
from powerinfer_cli.sampling.grammars.grammar import Constraint, NewConstraint
from powerinfer_cli.text import StreamingDetokenizer, Tokenizer

__all__ = ["UNTIL_FULL", "Session", "Stop", "open_session"]

UNTIL_FULL = -2


class Stop(StrEnum):
    """Why a text ended."""

    END = "end of text"
    LIMIT = "-n tokens written"
    REVERSE = "reverse prompt"
    CONTEXT = "context full"
    INTERRUPT = "interrupted"


@dataclass
class Session:
    """One context of one model. `n_keep` tokens stay when the context shifts. gpus: what lies where, a line each.

    constraint: what each text that the model writes may be, from its beginning; None for anything. on_full: asked for
    room where an answer has filled the context, with the tokens evaluated so far; True where it made some.
    """

    gguf: GGUFFile
    tokenizer: Tokenizer
    engine: Engine
    sampler: Sampler
    context_shift: bool
    gpus: tuple[str, ...] = ()
    n_keep: int = 0
    constraint: NewConstraint | None = None
    on_full: Callable[[], bool] | None = None
    timings: Timings = field(default_factory=Timings)
    interrupt: Interrupt = field(default_factory=Interrupt)
    _pending: int | None = None  # written, but not yet evaluated
    _logits: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def start_ids(self, text: str) -> list[int]:
        """`text` as tokens of a new context, which the model is to continue: without the EOS that closes a text."""
        return start_ids(self.tokenizer, text)

    def keep(self, ids: Sequence[int], wanted: int) -> None:
        """Let the first `wanted` (negative: all) of the context's first `ids` stay when it shifts; BOS always does."""
        self.n_keep = len(ids) if wanted < 0 else min(len(ids), wanted + int(self.tokenizer.add_bos))

    def feed(self, ids: Sequence[int], tails: Sequence[int] = ()) -> bool:
        """Evaluate prompt tokens behind the context. False where Ctrl-C came between two batches: nothing was fed.

        tails: as of the engine's `prefill`.

        Raises:
            PowerInferError: they do not fit.
        """
        waiting = ids if self._pending is None else [self._pending, *ids]
        self._make_room(len(waiting))
        with self.interrupt:
            if waiting and not self._evaluate(waiting, tails):
                return False
        self._pending = None
        for token in ids:
            self.sampler.accept(token)
        return True

    def _evaluate(self, ids: Sequence[int], tails: Sequence[int] = ()) -> bool:
        """Behind the context; False where Ctrl-C came between two batches: then it is as it was."""
        before, start = list(self.engine.tokens), time.perf_counter()
        try:
            self._logits = self.engine.prefill(ids, lambda done, total: self.interrupt.check(), tails=tails)
        except Interruption:
            known = self.engine.truncate(len(before))
            if known < len(before):  # layers with a window have gone on too far
                self.engine.prefill(before[known:])
            return False
        self.timings.prompt(len(ids), time.perf_counter() - start)
        return True

    def rewind(self, n: int) -> int:
        """Forget all but the context's first n tokens. How many are left, as the engine's `truncate` tells."""
        self._pending = None
        left = self.engine.truncate(n)
        self.sampler.replace_history(self.engine.tokens)
        return left

    def rewrite(self, ids: Sequence[int]) -> bool:
        """Have the context hold these tokens instead, and behind them still what was written last.

        False where Ctrl-C came meanwhile: the context holds their beginning then. Raises PowerInferError: no room.
        """
        waiting = self._pending
        self.rewind(common_prefix(self.engine.tokens, ids))
        fed = self.engine.n_past == len(ids) or self._evaluate(ids[self.engine.n_past :])
        self.sampler.replace_history([*self.engine.tokens, *([] if waiting is None else [waiting])])
        self._pending = waiting
        return fed

    def generate(
        self,
        limit: int,
        detokenizer: StreamingDetokenizer,
        on_text: Callable[[str], None],
        reverse_prompts: Sequence[str] = (),
    ) -> Stop:
        """Write up to `limit` tokens after what was fed, handing text on as it is made.

        A negative limit is none, but UNTIL_FULL does not let the context shift.
        """
        with self.interrupt:
            stop = self._generate(limit, detokenizer, on_text, reverse_prompts)
        detokenizer.reset()
        return stop

    def _generate(
        self,
        limit: int,
        detokenizer: StreamingDetokenizer,
        on_text: Callable[[str], None],
        reverse_prompts: Sequence[str],
    ) -> Stop:
        reverse_ids = self._single_tokens(reverse_prompts)
        longest = max((len(text) for text in reverse_prompts), default=0)
        constraint = None if self.constraint is None else self.constraint()
        tail, written = "", 0
        while written != limit:
            if self.interrupt.requested:
                return Stop.INTERRUPT
            if constraint is not None and constraint.finished:
                return Stop.END
            token = self._next_token(constraint, may_shift=limit != UNTIL_FULL)
            if token is None:
                return Stop.INTERRUPT if self.interrupt.requested else Stop.CONTEXT
            if token in self.tokenizer.eog_ids:
                return Stop.END
            piece = detokenizer.push(token)
            on_text(piece)
            written += 1
            tail += piece
            if token in reverse_ids or any(text in tail for text in reverse_prompts):
                return Stop.REVERSE
            tail = tail[-longest:] if longest else ""
        return Stop.LIMIT

    def _single_tokens(self, texts: Sequence[str]) -> set[int]:
        """Those of the texts that are one token: control tokens are not in the written text, but can be a cue."""
        encoded = [self.tokenizer.encode(text, add_special=False, parse_special=True) for text in texts]
        return {ids[0] for ids in encoded if len(ids) == 1}

    def _next_token(self, constraint: Constraint | None, *, may_shift: bool) -> int | None:
        """Evaluate the last written token and choose what follows it. None where the context has no room for it."""
        pending = self._pending
        if pending is not None and self.engine.n_past >= self.engine.n_ctx and not (may_shift and self._room()):
            return None
        start = time.perf_counter()
        if pending is not None:
            self._logits = self.engine.decode(pending)
            self._pending = None
        token = sample(self.sampler, self._logits, constraint)
        self.sampler.accept(token)
        if constraint is not None:
            constraint.accept(token)
        self._pending = token
        self.timings.generation(time.perf_counter() - start, evaluated=pending is not None)
        return token

    def report(self) -> list[str]:
        """The closing lines: times, active neurons, memory."""
        stats, engine = self.engine.stats, self.engine
        lines = self.timings.lines(stats.mean_active, stats.mean_predicted, stats.placed_line(), peak_memory())
        if isinstance(engine, DraftingEngine):
            lines.insert(-1, draft_line(engine.drafted()))
        return lines

    def _room(self) -> bool:
        """Make some where an answer has filled the context."""
        return (self.on_full is not None and self.on_full()) or self._shift()

    def _shift(self) -> bool:
        """Drop the older half of what is not kept, as llama.cpp does; False where shifting is off or cannot help."""
        n_left = self.engine.n_past - self.n_keep
        if not self.context_shift or n_left < 2:
            return False
        self.engine.shift(self.n_keep, n_left // 2)
        return True

    def _make_room(self, wanted: int) -> None:
        n_ctx = self.engine.n_ctx
        if self.engine.n_past + wanted <= n_ctx:
            return
        if not self.context_shift or self.n_keep + 1 + wanted > n_ctx:
            advice = "" if self.context_shift else ", or --ctx-shift"
            raise PowerInferError(
                f"context full: {self.engine.n_past} tokens and {wanted} more do not fit the {n_ctx} "
                f"of -c: shorten the text, or give a larger -c{advice}"
            )
        while self.engine.n_past + wanted > n_ctx:
            self._shift()


def open_session(
    path: Path,
    engine_options: EngineOptions,
    sampler_options: SamplerOptions,
    *,
    context_shift: bool,
    events: LoadEvents,
    predictor_path: Path | None = None,
    placement: PlacementWishes | None = None,
    drafts: DraftOptions | None = None,
    executor: ExecutorChoice | None = None,
) -> Session:
    """Load a model, with the predictors of a directory where one is given. Raises PowerInferError."""
    beside = partial(open_model, predictor_path=predictor_path, events=events, drafts=drafts, executor=executor)
    opened = beside(path, engine_options, placement)
    tokenizer, engine = opened.tokenizer, opened.engine
    sampler = build_sampler(
        sampler_options,
        n_vocab=engine.config.n_vocab,
        n_ctx_train=engine.config.n_ctx_train,
        eog_ids=tokenizer.eog_ids,
        breakers=lambda texts: TokenBreakers.of(texts, tokenizer),
    )
    return Session(opened.gguf, tokenizer, engine, sampler, context_shift, opened.gpus)
