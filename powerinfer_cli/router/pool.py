"""Which models are loaded: requests wait for theirs in line, and the one that was used longest ago makes room.

All of this runs in one event loop. A model that somebody uses is never stopped; where all are in use and somebody waits
for another one, the one that was asked for longest ago takes no new requests, so that it comes to an end.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from powerinfer_cli.router.division import Curve
from powerinfer_cli.router.entries import Entry
from powerinfer_cli.router.process import ModelProcess
from powerinfer_cli.router.room import Room, Share
from powerinfer_cli.serving.errors import APIError, invalid_request, server_error, unavailable
from powerinfer_cli.serving.load_progress import LoadProgress

__all__ = ["TELLING_S", "Instance", "Pool", "State"]

Spawn = Callable[[Entry, Share], ModelProcess]
Weigh = Callable[[Entry], Coroutine[None, None, Curve]]
Changed = Callable[["Instance"], None]

TELLING_S = 0.2  # from one word on how far a model is to the next


class State(StrEnum):
    """As llama-server tells it."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"


@dataclass(eq=False)
class Instance:
    """A model and its process, where it has one. fault: why it was not loaded, or ended, the last time.
    progress: how far it is while it loads.

    users: requests that are with it. waiting: requests for it that wait until it is loaded. retried: its process was
    killed while it was loading for them, and another one began.
    """

    entry: Entry
    state: State = State.UNLOADED
    process: ModelProcess | None = None
    exit_code: int | None = None
    fault: str | None = None
    progress: LoadProgress | None = None
    share: Share | None = None
    users: int = 0
    used_at: float = 0.0
    stopping: bool = False
    draining: bool = False
    retried: bool = False
    waiting: list["asyncio.Future[None]"] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        return self.state is State.LOADED and not self.users and not self.stopping


class Pool:
    """Instances by name. `changed` is told each change of a state, and of progress where some time has gone by."""

    def __init__(self, spawn: Spawn, room: Room, changed: Changed, weigh: Weigh) -> None:
        """spawn: makes a process of an entry with so many bytes on GPUs; it is started here. weigh: what budgets gain
        an entry, empty where nobody knows.
        """
        self._spawn, self._room, self._changed, self._weigh = spawn, room, changed, weigh
        self._curves: dict[Entry, Curve] = {}
        self._weighing = False
        self.instances: dict[str, Instance] = {}
        self._line: list[Instance] = []  # who waits to be loaded, first come first
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def instance(self, entry: Entry) -> Instance:
        """Of an entry, as it was or anew."""
        return self.instances.setdefault(entry.name, Instance(entry))

    @asynccontextmanager
    async def using(self, entry: Entry) -> AsyncIterator[ModelProcess]:
        """The process of a loaded model, which stays so long. Raises APIError: it cannot be loaded."""
        one = self.instance(entry)
        await self._enter(one)
        assert one.process is not None
        try:
            yield one.process
        finally:
            self._leave(one)

    async def load(self, entry: Entry) -> None:
        """Begin to; nobody waits for it. What does not fit waits in line, and fails there."""
        self._task(self._visit(self.instance(entry)))
        await asyncio.sleep(0)  # it is in line now

    async def unload(self, one: Instance) -> None:
        """Stop a model, whoever uses it or waits in line for it, and wait until it has ended."""
        if one in self._line:
            self._turn_away(one, unavailable(f"model '{one.entry.name}' was unloaded while it waited for room"))
        await self._halt(one)

    async def change(self, one: Instance, entry: Entry | None) -> None:
        """A model has another entry from now on, or is there no more. It is stopped, whoever uses it; who waits in line
        gets it as it is now, or is told.
        """
        if entry is not None:
            one.entry, one.fault, one.exit_code = entry, None, None
            await self._halt(one)
            return
        self._turn_away(one, invalid_request(f"model '{one.entry.name}' is there no more"))
        await self._halt(one)
        self.instances.pop(one.entry.name, None)

    async def close(self) -> None:
        """Stop all, at once and together."""
        self._closed = True
        for one in list(self._line):
            self._turn_away(one, unavailable("the server is stopping"))
        await asyncio.gather(*(self._halt(one) for one in list(self.instances.values())))

    def kill(self) -> None:
        """Without waiting for anything."""
        for one in self.instances.values():
            if one.process is not None:
                one.process.kill()

    async def _visit(self, one: Instance) -> None:
        try:
            await self._enter(one)
        except APIError:
            return  # the instance's fault tells it
        self._leave(one)

    async def _enter(self, one: Instance) -> None:
        """Become a user of a loaded model. Raises APIError."""
        one.used_at = time.monotonic()
        if one.state is State.LOADED and not one.stopping and not one.draining:
            one.users += 1
            return
        if self._closed:
            raise unavailable("the server is stopping")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        one.waiting.append(future)
        if one not in self._line and one.state is not State.LOADING:
            self._line.append(one)
        self._advance()
        try:
            await future
        except asyncio.CancelledError:  # the client has gone
            if future.done() and not future.cancelled() and future.exception() is None:
                self._leave(one)
            else:
                one.waiting.remove(future)
            if not one.waiting and one in self._line:
                self._line.remove(one)
            self._advance()
            raise

    def _leave(self, one: Instance) -> None:
        one.users -= 1
        self._advance()

    def _advance(self) -> None:
        """Load who is first in line if there is room; else make some."""
        while self._line and not self._closed:
            one = self._line[0]
            if one.state is State.LOADED and not one.stopping:
                # It was to make room, and nobody needs that any more; or is wanted again first.
                self._line.pop(0)
                one.draining = False
                self._tell(one, None)
                continue
            if one.process is not None:
                return  # it is about to end; then it begins anew
            others = [other for other in self.instances.values() if other.process is not None]
            coming = sum(self._room.needed(other.entry) for other in others if other.state is State.LOADING)
            if self._room.holds(one.entry, len(others), coming):
                if not self._divides(one, others):
                    return  # there will be a change soon
                self._line.pop(0)
                self._begin(one)
                continue
            memory = {other.entry: other.process.memory for other in others if other.process is not None}
            if not self._room.could_hold(one.entry, memory):
                self._line.pop(0)
                one.fault, one.exit_code = self._room.refusal(one.entry), None
                self._changed(one)
                self._tell(one, unavailable(one.fault, retry_after_s=30))
                continue
            self._make_room(others)
            return

    def _make_room(self, others: list[Instance]) -> None:
        if any(other.stopping or other.state is State.LOADING for other in others):
            return  # there will be a change soon
        idle = [other for other in others if other.idle]
        if idle:
            self._task(self._stop(min(idle, key=lambda other: other.used_at)))
        elif not any(other.draining for other in others):
            min(others, key=lambda other: other.used_at).draining = True

    def _divides(self, one: Instance, others: list[Instance]) -> bool:
        """Whether GPUs have room for a model's part, or as much as there will be of it. Those that were used last, as
        many as may be loaded, divide them; who has more than its part, and is idle, makes room and comes back with it.
        """
        unknown = [other.entry for other in self._together() if other.entry not in self._curves]
        if unknown and len(self._together()) > 1:
            if not self._weighing:
                self._weighing = True
                self._task(self._weighed(unknown))
            return False
        planned = self._planned()
        mine, left = planned.get(one.entry.name), self._room.left(self._given())
        if mine is None or all(part <= free for part, free in zip(mine, left, strict=True)):
            return True
        if any(other.stopping for other in others):
            return False
        large = [
            other for other in others if other.idle and sum(other.share or ()) > sum(planned.get(other.entry.name, ()))
        ]
        if not large:
            return True  # the others are busy, and keep what they have
        self._task(self._stop(min(large, key=lambda other: other.used_at)))
        return False

    async def _weighed(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._curves[entry] = await self._weigh(entry)
        self._weighing = False
        self._advance()

    def _together(self) -> list[Instance]:
        """Those that divide GPUs: that were used last, as many as may be loaded at a time; none without budgets."""
        used = sorted((one for one in self.instances.values() if one.used_at), key=lambda one: -one.used_at)
        return used[: self._room.most or len(used)] if self._room.budgets else []

    def _planned(self) -> dict[str, Share]:
        """Parts by name, where there are several, of those whose gain is known."""
        curves = {one.entry.name: self._curves.get(one.entry, ()) for one in self._together()}
        known = {name: curve for name, curve in curves.items() if curve}
        return self._room.planned(known) if len(curves) > 1 else {}

    def _given(self) -> list[Share]:
        return [other.share for other in self.instances.values() if other.share]

    def _begin(self, one: Instance) -> None:
        one.share = self._room.share(one.entry, self._given(), self._planned().get(one.entry.name))
        one.process = self._spawn(one.entry, one.share)
        one.state, one.fault, one.exit_code, one.progress = State.LOADING, None, None, LoadProgress()
        self._changed(one)
        self._task(self._live(one, one.process))

    async def _live(self, one: Instance, process: ModelProcess) -> None:
        """From a process's start to its end."""
        try:
            await process.start()
        except OSError as error:
            self._ended(one, f"no process could be started: {error.strerror}")
            return
        if await process.loaded(self._follows(one)):
            one.state, one.progress = State.LOADED, None
            self._changed(one)
            self._tell(one, None)
            self._advance()
            await process.ended.wait()
        asked = one.stopping
        one.exit_code = process.exit_code
        self._ended(one, None if asked else process.fault or _end(process.exit_code))

    def _follows(self, one: Instance) -> Callable[[LoadProgress], None]:
        told_at = time.monotonic()

        def progress(now: LoadProgress) -> None:
            nonlocal told_at
            differs, one.progress = now != one.progress, now
            if differs and time.monotonic() - told_at >= TELLING_S:
                told_at = time.monotonic()
                self._changed(one)

        return progress

    def _ended(self, one: Instance, fault: str | None) -> None:
        loading = one.state is State.LOADING
        one.progress = None
        one.state, one.process, one.stopping, one.draining, one.share = State.UNLOADED, None, False, False, None
        one.fault = fault
        self._changed(one)
        if loading and self._tries_again(one):
            one.retried = True
            self._line.insert(0, one)
        elif loading:
            why = fault or "it was unloaded while it was loading"
            self._tell(one, server_error(f"model '{one.entry.name}' failed to load: {why}"))
        self._advance()

    def _tries_again(self, one: Instance) -> bool:
        """Whether those who wait for a model get another process: whoever has killed the first (the system, where
        memory was short for a moment) may not do so again. What ends by itself would do so again.
        """
        killed = one.fault is not None and one.exit_code is not None and one.exit_code < 0
        return killed and not one.retried and bool(one.waiting) and not self._closed

    def _turn_away(self, one: Instance, error: APIError) -> None:
        """Who waits for a model is told; where it was in line, others may have their turn."""
        if one in self._line:
            self._line.remove(one)
        self._tell(one, error)
        self._advance()

    async def _halt(self, one: Instance) -> None:
        one.used_at = 0.0
        await self._stop(one)

    async def _stop(self, one: Instance) -> None:
        process = one.process
        if process is None:
            return
        one.stopping = True
        await process.stop(one.entry.start.stop_s)
        while one.process is process:  # `_live` has yet to see it
            await asyncio.sleep(0)

    def _tell(self, one: Instance, error: APIError | None) -> None:
        """All that wait for a model are its users now, or fail. Counted here: it must not look idle until they run."""
        one.retried = False
        waiting, one.waiting = one.waiting, []
        for future in waiting:
            if future.done():
                continue
            if error is None:
                one.users += 1
                future.set_result(None)
            else:
                future.set_exception(error)

    def _task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _end(code: int | None) -> str:
    return (
        f"its process ended with code {code}"
        if code is None or code >= 0
        else f"its process was killed (signal {-code})"
    )
