"""From an open port to the end: the model loads in a thread, signals end the server, requests are answered between."""

import asyncio
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from powerinfer_cli.runtime.memory import one_heap
from powerinfer_cli.serving.app import make_app
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.http.protocol import ACCEPTED_AT_ONCE, most_connections, protocol
from powerinfer_cli.serving.http.sockets import BACKLOG, url_of
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.service import ServedModel, Service
from powerinfer_cli.serving.tidying import tidying
from powerinfer_cli.serving.watchdog import watchdog

__all__ = ["serve"]

FINISHING_S = 2.0  # how long requests may go on after the first signal
CLOSING_S = 1.0  # how long their clients may take, then, to be told that there is no more
STOPPING_S = 1.0  # how long the engine's thread may take for its step
LATEST_S = 4.3  # after the first signal there is an end
FORCED_S = 4.6  # also where no line of Python is run any more

Load = Callable[[], tuple[ServedModel, Any]]


def serve(options: ServerOptions, sockets: Sequence[socket.socket], load: Load, log: Log) -> None:
    """Until a signal ends it. `load` is called in a thread; it gives the model, and the engine's thread, running.

    Raises:
        PowerInferError: the model cannot be loaded.
    """
    _Lifecycle(options, list(sockets), load, log).run()


class _Server(uvicorn.Server):
    """Leaves signals alone: uvicorn would end by the signal itself, and not with code 0.

    What requests still run some time after the end has begun is ended by `end_tasks`, so that clients are told.
    """

    def __init__(self, config: uvicorn.Config, end_tasks: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_tasks = end_tasks

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or ():
            sock.listen(BACKLOG)  # asyncio takes one number for how many may wait, and how many it accepts at once

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        late = asyncio.get_running_loop().call_later(FINISHING_S, self._end_tasks)
        await super().shutdown(sockets)
        late.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Lifecycle:
    def __init__(self, options: ServerOptions, sockets: list[socket.socket], load: Load, log: Log) -> None:
        self._sockets, self._load, self._log = sockets, load, log
        self._service = Service(options)
        logging.getLogger("uvicorn.error").disabled = True  # our log tells what is to be told
        most = most_connections()
        full = f"more than {most} connections (ulimit -n): the one that was idle for longest is closed"
        self._server = _Server(
            uvicorn.Config(
                make_app(self._service, log),
                http=protocol(options.timeout_s, most, lambda: log.seldom(full)),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=[("server", "powerinfer")],
                backlog=ACCEPTED_AT_ONCE,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=FINISHING_S + CLOSING_S,  # type: ignore[arg-type]  # seconds, as asyncio takes them
            ),
            self._service.stop,
        )
        self._signals = 0
        self._failure: BaseException | None = None

    def run(self) -> None:
        one_heap()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signal)
        signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
        with watchdog(
            FORCED_S, self._log.line("the server was told to end, and is ended now: it does not do so itself")
        ):
            self._run()

    def _run(self) -> None:
        if "*" in self._service.options.cors_origins and not self._service.options.api_keys:
            self._log.note("warning: any web page may use this server: --cors-origins is * and there is no --api-key")
        # "Listening" is said when there is something to listen for, as llama-server has it.
        urls = [url_of(sock) for sock in self._sockets]
        self._log.note(f"loading the model: {', '.join(urls)} answers 503 until it is there")
        threading.Thread(target=self._loading, args=(urls,), name="loader", daemon=True).start()
        asyncio.run(self._serve())
        if self._failure is not None:
            raise self._failure
        if self._service.state == "ready":  # not so where loading fails at this moment, after a signal
            self._service.thread.stop(STOPPING_S)
        if self._signals or any(thread.name in ("loader", "engine") for thread in threading.enumerate()):
            # Nothing stops these threads, and nothing is lost with them. And while Python shuts down, the alarm has no
            # handler any more: on a busy machine it would end us with its own code.
            os._exit(0)

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._unhandled)
        tidy = asyncio.create_task(tidying(self._service))
        await self._server.serve(sockets=self._sockets)
        tidy.cancel()

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Told instead of by asyncio, which would print an error's own words: they may be a client's."""
        error = context.get("exception")
        if isinstance(error, Exception):
            self._log.failure(error)
        else:
            self._log.seldom(f"failure: {context['message']}")

    def _loading(self, urls: Sequence[str]) -> None:
        """urls: where it will listen; a signal may close the sockets meanwhile."""
        try:
            model, thread = self._load()
        except BaseException as error:  # the main thread tells of it
            self._failure = error
            self._server.should_exit = True
            return
        # What lives until the end is not looked through again and again: that took 0.3 s each time, of everybody.
        gc.collect()
        gc.freeze()
        self._service.ready(model, thread)
        self._log.note(f"model loaded: {model.name}")
        for url in urls:
            self._log.note(f"server is listening on {url}")

    def _signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            os._exit(1)
        self._server.should_exit = True
        # Whatever is still at work then, a thread that reads a long grammar perhaps, is not waited for.
        signal.setitimer(signal.ITIMER_REAL, LATEST_S)
