"""A server that nobody asks anything lets go of its weights, and takes them up again for the next request."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.errors import APIError, unavailable
from powerinfer_cli.serving.http.bodies import error_answer
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.service import Resting, ServedModel, Service
from powerinfer_cli.serving.slot_moves import restore_slot, save_slot
from powerinfer_cli.system.memory import resident_memory, return_memory

__all__ = ["Sleeper", "Waking"]

# What tells of the server, and asks nothing of the model, as llama-server has it; and what our page looks at often.
ABOUT = frozenset({"/health", "/v1/health", "/props", "/models", "/v1/models", "/metrics", "/internal/neurons"})
ENDING_S = 30.0  # for a step of the engine that is under way when nobody waits for it any more

Load = Callable[[Callable[[str, int, int], None]], tuple[ServedModel, Any]]


class Sleeper:
    """For one server, in its event loop. What slots have read is kept on disk meanwhile, where there is a folder."""

    def __init__(self, service: Service, load: Load, log: Log, after_s: float) -> None:
        """load: as when the server began; called in a thread. after_s: seconds without a request."""
        self._service, self._load, self._log, self._after_s = service, load, log, after_s
        self._users = 0
        self._used_at = time.monotonic()
        self._resting: asyncio.Task[None] | None = None
        self._waking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._users or self._service.state != "ready":
                self._used_at = time.monotonic()
            left_s = self._used_at + self._after_s - time.monotonic()
            if left_s > 0:
                await asyncio.sleep(min(left_s, 1.0))
                continue
            self._resting = asyncio.create_task(self._rest())
            await asyncio.wait({self._resting})
            self._resting = None

    def forget(self) -> None:
        """At the end: nobody comes back to what is on disk."""
        if self._service.state == "sleeping":
            for number in range(self._service.model.n_slots):
                self._file(number).unlink(missing_ok=True)

    @asynccontextmanager
    async def awake(self) -> AsyncIterator[None]:
        """In it the model is there. Raises APIError: it could not be loaded again."""
        self._users += 1
        try:
            while self._resting is not None or self._service.state == "sleeping":
                if self._resting is not None:
                    await asyncio.wait({self._resting})
                    await asyncio.sleep(0)  # `run` sees it, too
                    continue
                if self._waking is None:
                    self._waking = asyncio.create_task(self._wake())
                    self._waking.add_done_callback(self._woken)
                await asyncio.shield(self._waking)
            yield
        finally:
            self._users -= 1
            self._used_at = time.monotonic()

    def _woken(self, task: "asyncio.Task[None]") -> None:
        self._waking = None
        if not task.cancelled():
            task.exception()  # whoever waits tells it

    async def _rest(self) -> None:
        service = self._service
        for number in self._with_text():
            with suppress(APIError):  # a full disk: the text is read anew, then
                await save_slot(number, self._file(number), service)
        if self._users:
            return  # somebody came meanwhile
        thread = service.thread
        await asyncio.to_thread(thread.stop, ENDING_S)
        counters = thread.counters()
        if counters.cached is not None:  # which goes with the engine: memory is what a sleep is for
            counters = replace(counters, cached=replace(counters.cached, n_texts=0, n_bytes=0))
        service.rest(Resting(counters, thread.tally, resident_memory()))
        thread.close()
        del thread
        await asyncio.to_thread(_free)
        self._log.note(f"asleep: no request for {self._after_s:.0f} s")

    async def _wake(self) -> None:
        began = time.monotonic()
        try:
            model, thread = await asyncio.to_thread(self._load, self._service.load_step)
        except (PowerInferError, OSError) as error:
            self._log.note(f"cannot wake: {error}")
            raise unavailable(f"the model cannot be loaded again: {error}", retry_after_s=30) from error
        gc.freeze()
        self._service.ready(model, thread)
        for number in range(model.n_slots):
            file = self._file(number)
            if file.exists():
                with suppress(APIError):  # no more room on a GPU, say: the text is read anew
                    await restore_slot(number, file, self._service)
                file.unlink(missing_ok=True)
        self._log.note(f"awake again after {time.monotonic() - began:.1f} s")

    def _with_text(self) -> list[int]:
        """Slots to be kept."""
        if self._service.options.slot_save_path is None:
            return []
        return [view.id for view in self._service.thread.slots() if view.n_tokens]

    def _file(self, number: int) -> Path:
        """Hidden, so that no client can name it; other servers' have other names."""
        folder = self._service.options.slot_save_path or Path()
        return folder / f".asleep-{os.getpid()}-{number}"


def _free() -> None:
    gc.unfreeze()  # the engine is among what was not to be looked through again
    return_memory()


class Waking:
    """Has the model there before a handler that needs it is called."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sleeper = self._service.sleeper
        about = scope["path"] in ABOUT and scope["method"] == "GET"
        if sleeper is None or about:
            await self._app(scope, receive, send)
            return
        try:
            async with sleeper.awake():
                await self._app(scope, receive, send)
        except APIError as error:  # handlers answer theirs
            await error_answer(error)(scope, receive, send)
