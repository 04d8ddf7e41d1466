"""A slot: one sequence of the engine's, and what runs in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from powerinfer_cli.runtime.pooling import Pool
from powerinfer_cli.runtime.stats import Drafted
from powerinfer_cli.runtime.step import Piece, Wanted
from powerinfer_cli.serving.slots.counters import ServedRequest
from powerinfer_cli.serving.slots.generation import Generation
from powerinfer_cli.serving.tasks import (
    CompletionTask,
    EmbeddingTask,
    Emit,
    Finished,
    PromptProgress,
    SlotTask,
    Stop,
    Task,
    Timings,
)

__all__ = ["Running", "Slot", "SlotRequest", "SlotView"]


@dataclass(frozen=True)
class SlotRequest:
    """A task that has no slot yet. request: the same for all that were asked for together.

    came: when, in seconds on the thread's clock.
    """

    id: int
    request: int
    task: Task
    emit: Emit
    came: float

    def served(self, stop: str, now: float) -> ServedRequest | None:
        """The record of one that never got a slot."""
        if isinstance(self.task, SlotTask):
            return None
        ms = 1e3 * (now - self.came)
        return ServedRequest(self.task.label, self.id, -1, len(self.task.prompt), 0, 0, 0.0, 0.0, stop, ms)


@dataclass
class Running:
    """A task in a slot. Times in seconds, on the thread's clock.

    request: as SlotRequest has it. came, started: when it was asked for, and when it got its slot. order: greater for
    later. n_cached: tokens of the prompt that were there already; n_read: that are there now, these included.
    tails: where it is cut, as a Load's. read_at: when the last of them was read. last_step: the step that it was last
    part of. generation: None for embeddings; pool: theirs alone.
    """

    id: int
    request: int
    task: CompletionTask | EmbeddingTask
    emit: Emit
    came: float
    started: float
    order: int
    generation: Generation | None = None
    n_cached: int = 0
    n_read: int = 0
    tails: Sequence[int] = ()
    read_at: float = 0.0
    last_step: int = 0
    drafted: Drafted = field(default_factory=Drafted)
    pool: Pool = field(default_factory=lambda: Pool("none"))

    @property
    def n_left(self) -> int:
        """Tokens of the prompt that are still to be read."""
        return len(self.task.prompt) - self.n_read

    @property
    def timings(self) -> Timings:
        """As of the last token."""
        written = self.generation
        end = written.began if written is not None and written.n_predicted else self.read_at
        return Timings(
            cache_n=self.n_cached,
            prompt_n=self.n_read - self.n_cached,
            prompt_ms=1e3 * max(0.0, end - self.started),
            predicted_n=written.n_predicted if written is not None else 0,
            predicted_ms=written.predicted_ms if written is not None else 0.0,
            draft_n=self.drafted.proposed,
            draft_n_accepted=self.drafted.accepted,
        )

    def progress(self, now: float) -> PromptProgress:
        """How far the prompt is read."""
        return PromptProgress(len(self.task.prompt), self.n_cached, self.n_read, 1e3 * (now - self.started))

    def rewind(self) -> None:
        """Nothing of the prompt is read."""
        self.n_read = self.n_cached = 0
        self.pool.clear()

    def piece(self, sequence: int, n: int) -> Piece:
        """The next n tokens, for a step: of the prompt, or the one that was written last."""
        if self.generation is not None and not self.n_left:
            return Piece(sequence, (self.generation.pending,), Wanted.LAST, stepwise=True)
        ids = self.task.prompt[self.n_read : self.n_read + n]
        if isinstance(self.task, EmbeddingTask):
            return Piece(sequence, ids, Wanted.HIDDEN)
        return Piece(sequence, ids, Wanted.LAST if n == self.n_left else Wanted.NOTHING)

    def finished(self, written: Generation, stop: Stop, id_slot: int, n_tokens: int) -> Finished:
        """The last event of a completion whose slot holds n_tokens."""
        return Finished(
            stop=stop,
            stopping_word=written.stopping_word,
            truncated=written.truncated,
            timings=self.timings,
            id_slot=id_slot,
            n_prompt=len(self.task.prompt),
            tokens_cached=n_tokens,
            seed=written.seed,
        )

    def served(self, id_slot: int, stop: str, now: float) -> ServedRequest:
        """The record of its end."""
        timings = self.timings
        return ServedRequest(
            label=self.task.label,
            id_task=self.id,
            id_slot=id_slot,
            n_prompt=len(self.task.prompt),
            n_cached=timings.cache_n,
            n_predicted=timings.predicted_n,
            prompt_ms=timings.prompt_ms,
            predicted_ms=timings.predicted_ms,
            stop=stop,
            ms=1e3 * (now - self.came),
        )


@dataclass(frozen=True)
class SlotView:
    """A slot at one moment, for /slots. n_tokens: in its sequence.

    task, id_task: what runs, or ran last (None and -1: nothing yet). The rest is of what runs; where nothing does,
    n_remain is -1 and the others are 0 or False. n_remain: -1 also where there is no limit.
    """

    id: int
    n_ctx: int
    n_tokens: int
    is_processing: bool
    id_task: int
    task: CompletionTask | EmbeddingTask | None
    n_prompt_processed: int = 0
    n_prompt_cached: int = 0
    has_next_token: bool = False
    has_new_line: bool = False
    n_decoded: int = 0
    n_remain: int = -1


@dataclass
class Slot:
    """id: also the number of its sequence. last_used: greater for later."""

    id: int
    n_ctx: int
    running: Running | None = None
    last_used: int = 0
    n_tokens: int = 0
    last: tuple[int, CompletionTask | EmbeddingTask | None] = (-1, None)

    def view(self) -> SlotView:
        """May be called in any thread: everything is read once."""
        running, (id_task, task) = self.running, self.last
        if running is None:
            return SlotView(self.id, self.n_ctx, self.n_tokens, False, id_task, task)
        written = running.generation
        return SlotView(
            id=self.id,
            n_ctx=self.n_ctx,
            n_tokens=self.n_tokens,
            is_processing=True,
            id_task=running.id,
            task=running.task,
            n_prompt_processed=running.n_read - running.n_cached,
            n_prompt_cached=running.n_cached,
            has_next_token=True,
            has_new_line=written is not None and written.has_new_line,
            n_decoded=written.n_predicted if written is not None else 0,
            n_remain=written.n_left if written is not None else -1,
        )
