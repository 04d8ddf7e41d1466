"""A pool whose processes are told when to be ready, and what happened in it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from powerinfer_cli.router.division import Curve
from powerinfer_cli.router.entries import Entry, Start
from powerinfer_cli.router.pool import Instance, Pool, State
from powerinfer_cli.router.room import Room
from powerinfer_cli.serving.load_progress import LoadProgress


class FakeProcess:
    """Loads at once unless `slow`, and ends when it is told to."""

    def __init__(self, entry: Entry, slow: bool, fault: str) -> None:
        self.entry, self.fault, self.exit_code = entry, fault, None
        self.ended, self.ready = asyncio.Event(), asyncio.Event()
        self.words, self.memory = (), 0
        if not slow:
            self.ready.set()

    async def start(self) -> None:
        if self.fault:
            self.crash(1)

    async def loaded(self, on_progress: Callable[[LoadProgress], None]) -> bool:
        self.on_progress = on_progress
        waits = [asyncio.ensure_future(one.wait()) for one in (self.ready, self.ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()
        return not self.ended.is_set()

    async def stop(self, patience_s: float) -> None:
        self.crash(0)

    def crash(self, code: int) -> None:
        self.exit_code = code
        self.ended.set()

    def kill(self) -> None:
        self.crash(-9)


class Bench:
    """A pool, and what happened in it."""

    def __init__(self, most: int = 1, available: int = 1 << 60, budgets: tuple[int, ...] = ()) -> None:
        self.made: list[FakeProcess] = []
        self.shares: list[tuple[int, ...]] = []
        self.states: list[tuple[str, State]] = []
        self.slow: set[str] = set()
        self.faults: dict[str, str] = {}
        room = Room(most=most, budgets=budgets, available=lambda: available)
        self.curves: dict[str, Curve] = {}
        self.weighings: list[str] = []
        self.pool = Pool(self._spawn, room, self._changed, self._weigh)  # type: ignore[arg-type]  # a fake

    def _changed(self, one: Instance) -> None:
        self.states.append((one.entry.name, one.state))

    def _spawn(self, entry: Entry, share: tuple[int, ...]) -> FakeProcess:
        process = FakeProcess(entry, entry.name in self.slow, self.faults.get(entry.name, ""))
        self.made.append(process)
        self.shares.append(share)
        return process

    async def _weigh(self, entry: Entry) -> Curve:
        self.weighings.append(entry.name)
        await asyncio.sleep(0)
        return self.curves.get(entry.name, ())

    async def use(self, name: str, until: asyncio.Event | None = None, size: int = 0) -> str:
        async with self.pool.using(entry(name, size)) as process:
            if until is not None:
                await until.wait()
            return process.entry.name  # type: ignore[attr-defined]  # a fake's

    def state(self, name: str) -> State:
        return self.pool.instances[name].state

    @property
    def loads(self) -> str:
        return "".join(process.entry.name for process in self.made)


def entry(name: str, size: int = 0) -> Entry:
    return Entry(name, Start(), size=size)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a coroutine as a test."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    return run
