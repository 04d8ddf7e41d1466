"""From an open port to the end: the model loads in a thread, signals end the server, requests are answered between."""

import asyncio
import gc
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from powerinfer_cli.serving.app import make_app
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.http.sockets import url_of
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.running import STOPPING_S, Running
from powerinfer_cli.serving.service import ServedModel, Service
from powerinfer_cli.serving.sleeping import Sleeper
from powerinfer_cli.serving.tidying import tidying
from powerinfer_cli.system.memory import one_heap

__all__ = ["serve", "warn_of_pages"]

Load = Callable[[Callable[[str, int, int], None]], tuple[ServedModel, Any]]


def serve(
    options: ServerOptions,
    sockets: Sequence[socket.socket],
    load: Load,
    log: Log,
    *,
    at_end: Callable[[], None] | None = None,
) -> None:
    """Until a signal ends it. `load` is called in a thread; it tells its progress, and gives the model, and the
    engine's thread, running. at_end: called behind the last step.

    Raises:
        PowerInferError: the model cannot be loaded.
    """
    _Lifecycle(options, sockets, load, log, at_end).run()


def warn_of_pages(options: ServerOptions, log: Log) -> None:
    """Where any web page may use the server."""
    if "*" in options.cors_origins and not options.api_keys:
        log.note("warning: any web page may use this server: --cors-origins is * and there is no --api-key")


class _Lifecycle:
    def __init__(
        self,
        options: ServerOptions,
        sockets: Sequence[socket.socket],
        load: Load,
        log: Log,
        at_end: Callable[[], None] | None,
    ) -> None:
        self._load, self._log, self._at_end = load, log, at_end
        self._service = Service(options)
        # "Listening" is said when there is something to listen for, as llama-server has it.
        self._urls = [url_of(sock) for sock in sockets]  # now: a signal may close the sockets meanwhile
        self._running = Running(
            make_app(self._service, log),
            sockets,
            options.timeout_s,
            log,
            end_tasks=self._service.stop,
            beside=self._beside,
        )
        self._failure: BaseException | None = None

    def run(self) -> None:
        one_heap()
        with self._running.watched():
            self._run()

    def _run(self) -> None:
        warn_of_pages(self._service.options, self._log)
        self._log.note(f"loading the model: {', '.join(self._urls)} answers 503 until it is there")
        threading.Thread(target=self._loading, name="loader", daemon=True).start()
        self._running.serve()
        if self._failure is not None:
            raise self._failure
        if self._service.state == "ready":  # not so where loading fails at this moment, after a signal
            self._service.thread.stop(STOPPING_S)
        if self._at_end is not None:
            self._at_end()
        if self._running.signals or any(thread.name in ("loader", "engine") for thread in threading.enumerate()):
            # Nothing stops these threads, and nothing is lost with them. And while Python shuts down, the alarm has no
            # handler any more: on a busy machine it would end us with its own code.
            os._exit(0)

    @asynccontextmanager
    async def _beside(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(tidying(self._service))]
        sleeper, seconds = None, self._service.options.sleep_idle_s
        if seconds is not None:
            self._service.sleeper = sleeper = Sleeper(self._service, self._load, self._log, seconds)
            tasks.append(asyncio.create_task(sleeper.run()))
        yield
        for task in tasks:
            task.cancel()
        if sleeper is not None:
            sleeper.forget()

    def _loading(self) -> None:
        try:
            model, thread = self._load(self._service.load_step)
        except BaseException as error:  # the main thread tells of it
            self._failure = error
            self._running.end()
            return
        # What lives until the end is not looked through again and again: that took 0.3 s each time, of everybody.
        gc.collect()
        gc.freeze()
        self._service.ready(model, thread)
        self._log.note(f"model loaded: {model.name}")
        for url in self._urls:
            self._log.note(f"server is listening on {url}")
