"""The one thread that owns the engine. Handlers put tasks in and take them out again; everything else is its own."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from powerinfer_cli.serving.errors import invalid_request, server_error, unavailable
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.slots.batching import Batcher
from powerinfer_cli.serving.slots.counters import CachedTexts, Counters, ServedRequest, Tally
from powerinfer_cli.serving.slots.engine_like import EngineLike, slot_context
from powerinfer_cli.serving.slots.faults import note_fault, refusal
from powerinfer_cli.serving.slots.prompt_cache import prompt_cache_of
from powerinfer_cli.serving.slots.slot import SlotRequest, SlotView
from powerinfer_cli.serving.slots.slot_files import SlotFiles
from powerinfer_cli.serving.tasks import CompletionTask, Emit, Event, SlotTask, Task
from powerinfer_cli.text import Tokenizer

__all__ = ["EngineThread"]


class EngineThread:
    """Sleeps while there is nothing to do."""

    def __init__(
        self,
        engine: EngineLike,
        tokenizer: Tokenizer,
        options: ServerOptions,
        log: Callable[[ServedRequest], None],
        *,
        on_fault: Callable[[Exception], None] = note_fault,
        model: str = "",
    ) -> None:
        """log: told of each request that ends, on_fault: of what nobody foresaw; both by the engine's thread.

        model: its fingerprint, for saved slots.
        """
        self._engine = engine
        self._most = engine.n_sequences + options.queue
        self._on_fault = on_fault
        self._batcher = Batcher(
            engine,
            tokenizer,
            context_shift=options.context_shift,
            log=log,
            on_end=self._ended,
            on_fault=on_fault,
            cache=prompt_cache_of(engine, options.cache_ram_mib),
        )
        self.files = SlotFiles(engine, model)
        self._wake = threading.Condition()
        self._inbox: list[SlotRequest] = []
        self._cancelled: set[int] = set()
        self._open: set[int] = set()  # tasks that have not ended
        self._next_id = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Let the step that runs end, and no other: all tasks fail with 503. Returns after timeout_s at the latest."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def close(self) -> None:
        """After `stop`: the engine's memory is nobody's any more once this object is dropped."""
        self._engine.close()

    @property
    def alive(self) -> bool:
        """Does it work still?"""
        return self._thread.is_alive()

    @property
    def tally(self) -> Tally:
        """What was counted so far."""
        return self._batcher.tally

    def continue_from(self, tally: Tally, cached: CachedTexts | None) -> None:
        """Count on from what another thread has counted. Before the first task."""
        self._batcher.tally = tally
        if self._batcher.texts.cache is not None and cached is not None:
            self._batcher.texts.cache.continue_from(cached)

    def submit(self, tasks: Sequence[Task], emit: Callable[[int, Sequence[Event]], None]) -> range:
        """Queue all tasks of a request, or none; their ids. Any thread.

        `emit` is told a task's place among them and its events, by the engine's thread only.
        Raises APIError: no slot can do one of them, too many wait already, or the server stops.
        """
        for task in tasks:
            self._check(task)
        came = time.perf_counter()
        with self._wake:
            if self._stopping:
                raise unavailable("the server is stopping")
            if len(self._open) + len(tasks) > self._most:
                raise unavailable("too many requests wait already, try again later")
            ids = range(self._next_id, self._next_id + len(tasks))
            self._next_id += len(tasks)
            self._open |= set(ids)
            for place, (task_id, task) in enumerate(zip(ids, tasks, strict=True)):
                told = self._until_cancelled(task_id, partial(emit, place))
                self._inbox.append(SlotRequest(task_id, ids.start, task, told, came))
            self._wake.notify()
        return ids

    def cancel(self, ids: Iterable[int]) -> None:
        """End tasks together, whatever their state; nothing is emitted for them any more. Any thread, any number of
        times.
        """
        with self._wake:
            gone = self._open.intersection(ids)
            if gone:
                self._cancelled |= gone
                self._wake.notify()

    def slots(self) -> list[SlotView]:
        """All slots as they are now. Any thread."""
        return [slot.view() for slot in self._batcher.slots]

    def counters(self) -> Counters:
        """What was done so far. Any thread."""
        tally, slots, stats = self._batcher.tally, self._batcher.slots, self._engine.stats
        processing = sum(slot.running is not None for slot in slots)
        return Counters(
            prompt_tokens=tally.prompt_tokens,
            prompt_tokens_cached=tally.prompt_tokens_cached,
            prompt_seconds=tally.prompt_seconds,
            predicted_tokens=tally.predicted_tokens,
            predicted_steps=tally.predicted_steps,
            predicted_seconds=tally.predicted_seconds,
            n_decode=tally.n_decode,
            n_busy_slots=tally.n_busy_slots,
            n_tokens_max=tally.n_tokens_max,
            kv_tokens=sum(slot.n_tokens for slot in slots),
            kv_capacity=self._engine.n_ctx,
            requests_processing=processing,
            requests_deferred=max(0, len(self._open) - processing),
            active_share=stats.mean_active,
            predicted_share=stats.mean_predicted,
            hot_share=stats.hot_share,
            chosen_hot_share=stats.hit_rate,
            uploads=stats.uploads,
            moved_bytes=stats.moved,
            kv_gpu_bytes=stats.kv_gpus,
            kv_overflow_bytes=stats.kv_overflow,
            compute_seconds=stats.seconds.total,
            cold_seconds=stats.seconds.cold,
            cold_wait_seconds=stats.seconds.waiting,
            outside_cold_seconds=stats.seconds.outside_cold,
            draft_tokens=tally.draft_tokens,
            draft_tokens_accepted=tally.draft_tokens_accepted,
            drafts=tally.drafts,
            cached=None if self._batcher.texts.cache is None else self._batcher.texts.cache.counts,
        )

    def neurons(self) -> dict[str, Any]:
        """For the web page: where each layer's neurons are, and which share of them was active. Any thread."""
        layers = [
            {
                "index": i,
                "neurons": layer.n_neurons,
                "hot": layer.n_hot,
                "active": layer.active,
                "experts": layer.experts and asdict(layer.experts),
            }
            for i, layer in enumerate(self._engine.neurons())
        ]
        devices, stats = list(self._engine.devices), self._engine.stats
        placed = bool(devices) and any(layer["experts"] for layer in layers)
        moves = {"uploads": stats.uploads, "moved_bytes": stats.moved}
        return {"layers": layers, "sparse": self._engine.config.sparse or placed, "devices": devices, **moves}

    def _check(self, task: Task) -> None:
        n_slots = self._engine.n_sequences
        if isinstance(task, SlotTask):
            if not 0 <= task.id_slot < n_slots:
                raise invalid_request("Invalid slot ID")
            return
        if isinstance(task, CompletionTask) and not -1 <= task.id_slot < n_slots:
            raise invalid_request(f"id_slot is {task.id_slot}, but must be -1 or a slot's id, 0 to {n_slots - 1}")
        if not task.prompt:
            raise invalid_request("the prompt has no tokens")
        if min(task.prompt) < 0 or max(task.prompt) >= self._engine.config.n_vocab:
            raise invalid_request("Prompt contains invalid tokens")
        error = refusal(task, slot_context(self._engine))
        if error is not None:
            raise error

    def _until_cancelled(self, task_id: int, emit: Emit) -> Emit:
        def tell(events: Sequence[Event]) -> None:
            if task_id not in self._cancelled:
                emit(events)

        return tell

    def _ended(self, task_id: int) -> None:
        with self._wake:
            self._open.discard(task_id)
            self._cancelled.discard(task_id)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._inbox or self._cancelled or self._stopping or self._batcher.is_busy):
                    self._wake.wait()
                asked, self._inbox = self._inbox, []
                cancelled, stopping = frozenset(self._cancelled), self._stopping
            try:
                self._work(asked, cancelled)
            except Exception as error:  # none is known; should there be one, it must not silence the server
                self._on_fault(error)
                self._batcher.end_all(server_error("internal error"))
            if stopping:
                self._batcher.end_all(unavailable("the server is stopping"))
                return

    def _work(self, asked: Sequence[SlotRequest], cancelled: frozenset[int]) -> None:
        if asked or cancelled:
            self._batcher.change(asked, cancelled)
        if self._batcher.is_busy and not self._stopping:
            self._batcher.step()
