"""What handlers have of the server: the model once it is loaded, and a way to give the engine's thread work."""

import asyncio
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from powerinfer_cli.model import ModelConfig
from powerinfer_cli.sampling.grammars.grammar import Grammars
from powerinfer_cli.serving.errors import APIError, unavailable
from powerinfer_cli.serving.http.rates import Rates
from powerinfer_cli.serving.http.requests import current, note_events
from powerinfer_cli.serving.load_progress import LoadProgress
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.slots.counters import Counters, Tally
from powerinfer_cli.serving.slots.engine_thread import EngineThread
from powerinfer_cli.serving.tasks import Event, Failed, Finished, SlotDone, Task, Vectors, weight
from powerinfer_cli.system.memory import resident_memory
from powerinfer_cli.text import ChatTemplate, Tokenizer

__all__ = ["Reply", "Resting", "ServedModel", "Service", "Worker"]

MOST_WAITING = 1 << 16  # of events' weights; one comes with each token
FINAL = (Finished, Vectors, SlotDone, Failed)


@dataclass(frozen=True)
class ServedModel:
    """The model that is served. name: its id for clients; names: all that they may call it. lines: what lies on GPUs.

    n_ctx_slot: the most tokens that one slot holds. ranks: it can rank texts. size: of its tensors, bytes. metadata: of
    the GGUF.
    """

    name: str
    names: tuple[str, ...]
    tags: tuple[str, ...]
    path: Path
    metadata: Mapping[str, Any]
    config: ModelConfig
    tokenizer: Tokenizer
    template: ChatTemplate
    n_ctx_slot: int
    n_slots: int
    n_params: int
    size: int
    grammars: Grammars
    file_type: str = ""
    ranks: bool = True
    lines: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True)
class Resting:
    """What is still told of a model that sleeps: as it was right before. memory: bytes, None where nobody knows."""

    counters: Counters
    tally: Tally
    memory: int | None


class Awake(Protocol):
    """`Sleeper`, as far as requests are concerned."""

    def awake(self) -> AbstractAsyncContextManager[None]:
        """In it the model is there."""


class Worker(Protocol):
    """The engine's thread."""

    def submit(self, tasks: Sequence[Task], emit: Callable[[int, Sequence[Event]], None]) -> Iterable[int]:
        """Queue all tasks of a request, or none; their ids. Raises APIError."""

    def cancel(self, ids: Iterable[int]) -> None:
        """Idempotent; nothing is emitted for these tasks any more, soon."""


class Service:
    """One for the whole server; `request.app.state.service`."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.started = time.time()
        self.rates = Rates()
        self.slot_files: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)  # by slot
        self.progress = LoadProgress(drafts=options.spec_type in ("draft", "mtp"))
        self._model: ServedModel | None = None
        self._thread: EngineThread | None = None
        self._resting: Resting | None = None
        self.sleeper: Awake | None = None
        self._inbox: Inbox | None = None
        self._replies: weakref.WeakSet[Reply] = weakref.WeakSet()

    @property
    def state(self) -> str:
        """ "loading", "ready" or "sleeping"; a server whose model cannot be loaded ends."""
        return "loading" if self._model is None else "ready" if self._resting is None else "sleeping"

    @property
    def model(self) -> ServedModel:
        """Raises APIError while it loads."""
        if self._model is None:
            raise self.loading()
        return self._model

    @property
    def thread(self) -> EngineThread:
        """The engine's. Raises APIError while the model loads."""
        if self._thread is None:
            raise self.loading()
        return self._thread

    def load_step(self, what: str, done: int, total: int) -> None:
        """The loading is so far. Called by the thread that loads."""
        self.progress = self.progress.now(what, done, total)

    def loading(self) -> APIError:
        """What is told meanwhile."""
        error = unavailable("Loading model")
        error.extra["progress"] = self.progress.fields()
        return error

    def refusal(self) -> APIError | None:
        """Of any request that needs the model, or None where it is there."""
        return self.loading() if self.state == "loading" else None

    def ready(self, model: ServedModel, thread: EngineThread) -> None:
        """From now on requests are served. What was counted before a sleep goes on."""
        if self._resting is not None:
            thread.continue_from(self._resting.tally, self._resting.counters.cached)
        self._thread, self._model, self._resting = thread, model, None

    def rest(self, resting: Resting) -> None:
        """The engine is about to go; `ready` ends that."""
        self._thread, self._resting = None, resting

    def counted(self) -> tuple[Counters, int | None]:
        """What was done so far, and bytes of memory in use, which nobody knows of some systems."""
        if self._resting is not None:
            return self._resting.counters, self._resting.memory
        return self.thread.counters(), resident_memory()

    def open(self, tasks: Sequence[Task]) -> "Reply":
        """Have a request's tasks done; called in the event loop. Raises APIError: then none is."""
        if self._inbox is None:
            self._inbox = Inbox(asyncio.get_running_loop())
        reply = Reply(self.thread, self._inbox, tasks)
        self._replies.add(reply)
        return reply

    def stop(self) -> None:
        """All that still runs is told 503 now, and no step waited for. Called in the event loop."""
        if self._thread is None:
            return
        self._thread.stop(0.0)
        for reply in list(self._replies):
            reply.take(0, [Failed(unavailable("the server is stopping"))])


class Inbox:
    """Carries events from the engine's thread into the event loop, which is woken once for all that are there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: list[tuple[Reply, int, Sequence[Event]]] = []

    def put(self, reply: "Reply", index: int, events: Sequence[Event]) -> None:
        """Called by any thread."""
        with self._lock:
            self._waiting.append((reply, index, events))
            asleep = len(self._waiting) == 1
        if asleep and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for reply, index, events in waiting:
            reply.take(index, events)


class Reply:
    """The events of a request's tasks, as (index of the task, event): `async with service.open(tasks) as reply: async
    for index, event in reply`.

    Leaving the block cancels what still runs. A task that fails ends the others, and raises its APIError.
    """

    def __init__(self, thread: Worker, inbox: Inbox, tasks: Sequence[Task]) -> None:
        self._thread = thread
        self._events: deque[tuple[int, Event]] = deque()
        self._weight = 0  # of these
        self._arrived = asyncio.Event()
        self._left = len(tasks)  # tasks that have not ended
        self._record = current.get()
        self.ids = thread.submit(tasks, lambda index, events: inbox.put(self, index, events))

    async def __aenter__(self) -> "Reply":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Nobody wants the rest."""
        if self._left:
            self._left = 0
            self._thread.cancel(self.ids)
            self._arrived.set()

    def take(self, index: int, events: Sequence[Event]) -> None:
        """In the event loop: these have come."""
        if not self._left:
            return
        self._events.extend((index, event) for event in events)
        self._weight += sum(map(weight, events))
        if isinstance(events[-1], Failed):
            self.cancel()
        elif isinstance(events[-1], FINAL):
            self._left -= 1
        if self._weight > MOST_WAITING:
            self.cancel()
            self._events.append((index, Failed(APIError(503, "unavailable_error", "the reader does not read"))))
        note_events(self._record, events)
        self._arrived.set()

    def waiting(self) -> list[tuple[int, Event]]:
        """The events that have come already, up to a failure. Nothing is waited for."""
        found: list[tuple[int, Event]] = []
        while self._events and not isinstance(self._events[0][1], Failed):
            found.append(self._next())
        return found

    def _next(self) -> tuple[int, Event]:
        index, event = self._events.popleft()
        self._weight -= weight(event)
        return index, event

    def __aiter__(self) -> "Reply":
        return self

    async def __anext__(self) -> tuple[int, Event]:
        while not self._events:
            if not self._left:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        index, event = self._next()
        if isinstance(event, Failed):
            raise event.error
        return index, event
