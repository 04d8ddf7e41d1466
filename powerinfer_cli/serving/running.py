"""An application on open sockets until a signal ends it: requests under way may finish, but not for long."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.http.protocol import ACCEPTED_AT_ONCE, most_connections, protocol
from powerinfer_cli.serving.http.sockets import BACKLOG
from powerinfer_cli.system.signals import ENDING, exit_later
from powerinfer_cli.system.watchdog import watchdog

__all__ = ["STOPPING_S", "Running"]

FINISHING_S = 2.0  # how long requests may go on after the first signal
CLOSING_S = 1.0  # how long their clients may take, then, to be told that there is no more
STOPPING_S = 1.0  # how long what is behind them may take
LATEST_S = 4.3  # after the first signal there is an end
FORCED_S = 4.6  # also where no line of Python is run any more

Beside = Callable[[], AbstractAsyncContextManager[None]]


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


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


class Running:
    """One server. `signals`: how many told it to end."""

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        timeout_s: float,
        log: Log,
        *,
        end_tasks: Callable[[], None],
        beside: Beside = _nothing,
    ) -> None:
        """timeout_s: of reading a request, and of readers who do not read. end_tasks: tells those that still run some
        time after the end has begun. beside: entered in the event loop, and left when requests have ended.
        """
        self._sockets, self._log, self._beside = list(sockets), log, beside
        logging.getLogger("uvicorn.error").disabled = True  # our log tells what is to be told
        most = most_connections()
        full = f"more than {most} connections (ulimit -n): the one that was idle for longest is closed"
        self._server = _Server(
            uvicorn.Config(
                app,
                http=protocol(timeout_s, most, lambda: log.seldom(full)),
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
            end_tasks,
        )
        self.signals = 0
        self._exit_after: Callable[[float], None] | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within, signals end the server, and what it still does some time after that ends, too; afterwards they are
        handled as before. For the main thread."""
        line = self._log.line("the server was told to end, and is ended now: it does not do so itself")
        handlers = {number: signal.getsignal(number) for number in ENDING}
        try:
            with exit_later() as self._exit_after:
                for number in ENDING:
                    signal.signal(number, self._signal)
                with watchdog(FORCED_S, line):
                    yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def serve(self) -> None:
        """Until `end`, or a signal."""
        asyncio.run(self._serve())

    def end(self) -> None:
        """Any thread."""
        self._server.should_exit = True

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._unhandled)
        async with self._beside():
            await self._server.serve(sockets=self._sockets)

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Told instead of by asyncio, which would print an error's own words: they may be a client's."""
        error = context.get("exception")
        if isinstance(error, Exception):
            self._log.failure(error)
        else:
            self._log.seldom(f"failure: {context['message']}")

    def _signal(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if self.signals > 1:
            os._exit(1)
        self.end()
        # Whatever is still at work then, a thread that reads a long grammar perhaps, is not waited for.
        if self._exit_after is not None:
            self._exit_after(LATEST_S)
