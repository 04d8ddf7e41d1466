"""The engine's slots at work: tasks come in, steps are taken, events go out. For one thread only."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime.pooling import Pool
from powerinfer_cli.sampling import TokenBreakers
from powerinfer_cli.serving.errors import APIError, invalid_request, not_supported, server_error
from powerinfer_cli.serving.slots.choosing import Chooser
from powerinfer_cli.serving.slots.counters import ServedRequest, Tally
from powerinfer_cli.serving.slots.engine_like import EngineLike, slot_context
from powerinfer_cli.serving.slots.faults import as_api_error, is_unforeseen, note_fault
from powerinfer_cli.serving.slots.flights import Carried, Flight, Flights
from powerinfer_cli.serving.slots.generation import Generation
from powerinfer_cli.serving.slots.grouping import Grouping
from powerinfer_cli.serving.slots.prompt_cache import PromptCache
from powerinfer_cli.serving.slots.room import EXHAUSTED, clear_room, is_tight, shift_slot
from powerinfer_cli.serving.slots.scheduler import Idle, Load, choose_slot, plan_group, plan_step, plan_whole
from powerinfer_cli.serving.slots.slot import Running, Slot, SlotRequest
from powerinfer_cli.serving.slots.slot_actions import do_slot_task, pooled
from powerinfer_cli.serving.slots.slot_texts import SlotTexts
from powerinfer_cli.serving.tasks import (
    CompletionTask,
    EmbeddingTask,
    Emit,
    Event,
    Failed,
    SlotTask,
    Stop,
    Task,
    TextPiece,
    Vectors,
)
from powerinfer_cli.text import Tokenizer

__all__ = ["Batcher"]

_BREAKERS = 16  # sets of DRY's breakers that are kept, for a request's copies and for those who always want the same


class Batcher:
    """Owns the engine. Whatever goes wrong in one task ends that task alone."""

    def __init__(
        self,
        engine: EngineLike,
        tokenizer: Tokenizer,
        *,
        context_shift: bool,
        log: Callable[[ServedRequest], None],
        on_end: Callable[[int], None],
        on_fault: Callable[[Exception], None] = note_fault,
        clock: Callable[[], float] = time.perf_counter,
        cache: PromptCache | None = None,
    ) -> None:
        """log: told of each request that ends. on_end: told the id of each task that ends, whatever its end.

        on_fault: told of what nobody foresaw. cache: of texts that leave their slot.
        """
        self.slots = [Slot(i, slot_context(engine)) for i in range(engine.n_sequences)]
        self.texts = SlotTexts(engine, self.slots, cache, on_fault)
        self.tally = Tally()
        self._engine, self._tokenizer, self._clock = engine, tokenizer, clock
        self._context_shift = context_shift
        self._log, self._on_end, self._on_fault = log, on_end, on_fault
        self._shared = engine.n_sequences > 1 and engine.n_ctx_sequence == engine.n_ctx
        self._asked: dict[int, SlotRequest] = {}  # in the order in which they came
        self._turns: dict[int, int] = {}  # of requests: when one of its tasks last had a slot, or it came
        self._ticks = itertools.count(1)
        self._breakers = lru_cache(_BREAKERS)(lambda texts: TokenBreakers.of(texts, tokenizer))
        self._flights, self._counted_until = Flights(), 0.0
        self._grouping = Grouping(engine.n_groups, clock)
        self._left = False  # whether a slot was left since tasks were last assigned

    @property
    def is_busy(self) -> bool:
        """Whether a step has something to do."""
        return len(self._flights) > 0 or any(slot.running is not None for slot in self.slots)

    @property
    def n_waiting(self) -> int:
        """Tasks without a slot."""
        return len(self._asked)

    def change(self, asked: Sequence[SlotRequest] = (), cancelled: Collection[int] = ()) -> None:
        """Take tasks on, and end others, of these too, without an event; then those start that slots are free for.

        Nothing happens for ids of tasks that have ended.
        """
        for one in asked:
            self._asked[one.id] = one
            self._turns.setdefault(one.request, next(self._ticks))
        for task_id in cancelled:
            gone = self._asked.pop(task_id, None)
            if gone is not None:
                self._note(gone.served("cancelled", self._clock()))
                self._on_end(task_id)
        for slot in self.slots:
            if slot.running is not None and slot.running.id in cancelled:
                self._end(slot, [], "cancelled")
        self._assign()

    def end_all(self, error: APIError) -> None:
        """Every task, waiting or not, fails with `error`."""
        self._flights.clear()
        asked, self._asked = list(self._asked.values()), {}
        for one in asked:
            self._emit(one.emit, [Failed(error)])
            self._on_end(one.id)
        for slot in self.slots:
            if slot.running is not None:
                self._end(slot, [Failed(error)], "error")

    def step(self) -> None:
        """One step of the engine ends, and as many are begun before as keep it busy, each for slots of its own."""
        while len(self._flights) < self._grouping.groups(self._n_left()) and self._begin():
            pass
        if self._flights:
            self._finish(self._flights.next())
        if self._left:
            self._assign()

    def _n_left(self) -> list[int]:  # tokens of their prompts, of all texts
        return [slot.running.n_left for slot in self.slots if slot.running is not None]

    def _begin(self) -> bool:
        """A step for all free slots that have something to do, or their share. Whether it is on its way."""
        self._make_room()
        shares = self._plan()
        carried = tuple(
            (slot, slot.running, shares[slot.id]) for slot in self.slots if slot.running and slot.id in shares
        )
        if not carried:
            return False
        began = self._clock()
        try:
            take = self._engine.begin([running.piece(slot.id, n) for slot, running, n in carried])
        except Exception as error:  # of the engine, whatever it is: these tasks are lost, the others are not
            self._lose(carried, error)
            return False
        self._flights.add(Flight(carried, take, began))
        return True

    def _finish(self, flight: Flight) -> None:
        try:
            results = flight.take()
        except Exception as error:
            self._lose(flight.carried, error)
            return
        self._grouping.ended([n for _, _, n in flight.carried])
        pairs = zip(flight.carried, results, strict=True)
        there = [(one, result) for one, result in pairs if one[0].running is one[1]]  # the others were cancelled
        self._count([one for one, _ in there], flight.began)
        for (slot, running, n), result in there:
            self._guarded_advance(slot, running, n, result)

    def _lose(self, carried: Sequence[Carried], error: Exception) -> None:
        for slot, running, _ in carried:
            if slot.running is running:
                self._fail(slot, error, forget=True)

    # Tasks to slots

    def _assign(self) -> None:
        self._left = False
        waiting = {one.request for one in self._asked.values()}
        self._turns = {request: turn for request, turn in self._turns.items() if request in waiting}
        while self._assign_one():
            pass

    def _assign_one(self) -> bool:
        """Whether a task has got a slot."""
        idle = [slot for slot in self.slots if slot.running is None]
        if not idle or not self._asked:
            return False
        busy = Counter(slot.running.request for slot in self.slots if slot.running is not None)
        turns = {request: (busy[request], turn) for request, turn in self._turns.items()}
        for asked in sorted(self._asked.values(), key=lambda one: turns[one.request]):
            slot = self._slot_for(asked.task, idle)
            if slot is not None:
                del self._asked[asked.id]
                self._turns[asked.request] = next(self._ticks)
                self._start(asked, slot)
                return True
        return False

    def _slot_for(self, task: Task, idle: Sequence[Slot]) -> Slot | None:
        engine = self._engine
        free = [
            Idle(slot.id, engine.tokens_of(slot.id), slot.last_used, partial(engine.left, sequence=slot.id))
            for slot in idle
        ]
        if isinstance(task, SlotTask):
            chosen = choose_slot((), free, task.id_slot)
        elif isinstance(task, EmbeddingTask):
            chosen = choose_slot(task.prompt, free, reuse=False)
        else:
            elsewhere = self.texts.elsewhere(task.prompt) if task.cache_prompt and free else 0
            chosen = choose_slot(task.prompt, free, task.id_slot, reuse=task.cache_prompt, elsewhere=elsewhere)
        return None if chosen is None else self.slots[chosen]

    def _start(self, asked: SlotRequest, slot: Slot) -> None:
        if isinstance(asked.task, SlotTask):
            self._act(asked, asked.task, slot)
            return
        running = Running(asked.id, asked.request, asked.task, asked.emit, asked.came, self._clock(), next(self._ticks))
        try:
            if isinstance(asked.task, CompletionTask):
                running.generation = self._generation(asked.task)
            else:
                by = asked.task.pooling
                running.pool = Pool(self._engine.scorer.pooling if by == "rank" else by)
        except Exception as error:  # before anything of the slot has changed
            self._refuse(asked, invalid_request(str(error)) if isinstance(error, PowerInferError) else error)
            return
        slot.running, slot.last = running, (asked.id, asked.task)
        try:
            reuse = isinstance(asked.task, CompletionTask) and asked.task.cache_prompt
            running.n_cached = self.texts.enter(slot, asked.task.prompt, reuse=reuse)
        except Exception as error:
            self._fail(slot, error)
            return
        if isinstance(asked.task, CompletionTask):
            self._engine.begin_drafts(slot.id, asked.task.draft_max, asked.task.draft_min)
            n_new = len(asked.task.prompt) - running.n_cached
            running.tails = self._engine.begin_prompt(n_new, slot.id, asked.task.tails)
        slot.n_tokens = running.n_read = running.n_cached
        self.tally.prompt_tokens_cached += running.n_cached
        if isinstance(asked.task, CompletionTask) and asked.task.return_progress:
            self._tell(slot, running, [running.progress(running.started)])

    def _generation(self, task: CompletionTask) -> Generation:
        config = self._engine.config
        if not config.writes:
            raise not_supported("This model makes vectors of texts, and writes none: ask /v1/embeddings or /rerank")
        chooser = Chooser(task, self._tokenizer, self._breakers, config.n_vocab, config.n_ctx_train)
        return Generation(task, self._tokenizer, chooser, self._clock)

    def _refuse(self, asked: SlotRequest, error: Exception) -> None:
        self._emit(asked.emit, [Failed(self._as_api_error(error))])
        self._note(asked.served("error", self._clock()))
        self._on_end(asked.id)

    def _act(self, asked: SlotRequest, task: SlotTask, slot: Slot) -> None:
        event: Event
        try:
            event = do_slot_task(self._engine, task)
        except Exception as error:
            event = Failed(self._as_api_error(error))
        slot.n_tokens = len(self._engine.tokens_of(slot.id))
        slot.last_used = next(self._ticks)
        self._emit(asked.emit, [event])
        self._on_end(asked.id)

    # The next step

    def _make_room(self) -> None:
        while self._flights and self._shared and is_tight(self._engine, self.slots):
            self._finish(self._flights.next())  # so that all is known of what may have to go
        for slot, _ in self._flights.free(self.slots):
            try:
                shift_slot(self._engine, slot, add_bos=self._tokenizer.add_bos)
            except Exception as error:
                self._fail(slot, error, forget=True)
        if self._shared:
            for i in clear_room(self._engine, self.slots, self.texts.leave):
                self._fail(self.slots[i], server_error(EXHAUSTED), forget=True)

    def _plan(self) -> dict[int, int]:
        free = [(slot.id, running) for slot, running in self._flights.free(self.slots)]
        generating = [Load(i, 0, one.last_step) for i, one in free if not one.n_left]
        reading = [Load(i, one.n_left, one.order, one.tails) for i, one in free if one.n_left]
        if not self._engine.config.causal:
            return plan_whole(reading, self._engine.most_tokens)
        if self._engine.n_groups > 1:
            left, prompts = self._n_left(), not self._flights.is_reading
            groups = sum(n <= 1 for n in left), self._grouping.groups(left)
            generating, reading = plan_group(generating, reading, *groups, prompts=prompts)
        room = self._engine.n_free - self._flights.spoken_for if self._shared else self._engine.n_ctx
        return plan_step(generating, reading, self._engine.most_tokens, room)

    def _count(self, batch: Sequence[Carried], began: float) -> None:
        n_prompt, now = 0, self._clock()
        seconds, self._counted_until = now - max(began, self._counted_until), now  # no time twice
        tick = next(self._ticks)
        for slot, running, n in batch:
            n_prompt += n if running.n_left else 0
            running.last_step = tick
            running.drafted = self._engine.drafted(slot.id)
            slot.n_tokens += n
        busy = sum(slot.running is not None for slot in self.slots)
        self.tally.step(seconds, n_prompt, busy, max(slot.n_tokens for slot in self.slots))

    # What came of it

    def _guarded_advance(self, slot: Slot, running: Running, n: int, result: npt.NDArray[np.float32] | None) -> None:
        try:
            self._advance(slot, running, n, result)
            self._go_on(slot, running)
        except Exception as error:  # of this task's sampler, constraint or text
            self._fail(slot, error)

    def _advance(self, slot: Slot, running: Running, n: int, result: npt.NDArray[np.float32] | None) -> None:
        events: list[Event] = []
        if running.n_left:
            running.n_read += n
            running.read_at = self._clock()
            if isinstance(running.task, EmbeddingTask):
                assert result is not None
                running.pool.add(result)
                if not running.n_left:
                    self._end(slot, [Vectors(pooled(self._engine, running))], "embedding", forget=True)
                return
            if running.task.return_progress:
                events.append(running.progress(running.read_at))
            if running.n_left:
                self._tell(slot, running, events)
                return
        self._write(slot, running, events, result)

    def _go_on(self, slot: Slot, running: Running) -> None:
        """As far as the tokens that are chosen are those that drafts have foreseen."""
        written = running.generation
        while slot.running is running and written is not None and not running.n_left:
            logits = self._engine.ahead(slot.id, written.pending)
            if logits is None:
                return
            running.drafted = self._engine.drafted(slot.id)
            slot.n_tokens += 1
            self._write(slot, running, [], logits)

    def _write(self, slot: Slot, running: Running, events: list[Event], logits: npt.NDArray[np.float32] | None) -> None:
        task, written = running.task, running.generation
        assert isinstance(task, CompletionTask)
        assert written is not None
        assert logits is not None
        if task.n_predict == 0:
            written.stop = Stop.LIMIT
        else:
            full = not self._context_shift and slot.n_tokens + 1 >= slot.n_ctx
            shown = written.advance(logits, full=full)
            if shown:
                events.append(TextPiece(shown.text, tuple(shown.tokens), tuple(shown.chances), running.timings))
        if written.stop is None:
            self._tell(slot, running, events)
            return
        events.append(running.finished(written, written.stop, slot.id, slot.n_tokens))
        self._end(slot, events, written.stop.value)

    # Ends

    def _tell(self, slot: Slot, running: Running, events: Sequence[Event]) -> None:
        if events and not self._emit(running.emit, events):
            self._end(slot, [], "cancelled")

    def _note(self, served: ServedRequest | None) -> None:
        try:
            if served is not None:
                self._log(served)
        except Exception as error:
            self._on_fault(error)

    def _emit(self, emit: Emit, events: Sequence[Event]) -> bool:
        """False where nobody can be told."""
        try:
            emit(events)
        except Exception as error:
            self._on_fault(error)
            return False
        return True

    def _fail(self, slot: Slot, error: Exception, *, forget: bool = False) -> None:
        if slot.running is not None:
            self._end(slot, [Failed(self._as_api_error(error))], "error", forget=forget)

    def _as_api_error(self, error: Exception) -> APIError:
        if is_unforeseen(error):
            self._on_fault(error)
        return as_api_error(error)

    def _end(self, slot: Slot, events: Sequence[Event], stop: str, *, forget: bool = False) -> None:
        """Leave the slot first: whoever hears of the end may look at it at once. forget: its cache goes."""
        running = slot.running
        assert running is not None
        slot.running, self._left = None, True
        slot.last_used = self._turns[running.request] = next(self._ticks)
        if forget or isinstance(running.task, EmbeddingTask):
            self._engine.truncate(0, slot.id)
        slot.n_tokens = len(self._engine.tokens_of(slot.id))
        timings = running.timings
        self.tally.ended(timings.predicted_n, timings.predicted_ms / 1e3, running.drafted)
        self._note(running.served(slot.id, stop, self._clock()))
        if events:
            self._emit(running.emit, events)
        self._on_end(running.id)
