"""HTTP on a socket, whose patience ends: with headers that do not come, with readers who do not read, and with idle
connections where others want to come in.
"""

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from powerinfer_cli.system.sockets import open_descriptors

__all__ = ["ACCEPTED_AT_ONCE", "most_connections", "protocol", "spelled"]

MOST_BARE_BYTES = 1 << 16  # without a byte of a body: headers, trailers, chunks' extensions
HEADER_TIMEOUT_S = 30.0
MOST_CONNECTIONS = 1024
MOST_PIPELINED = 64  # requests that wait on one connection: each takes some kilobytes
ACCEPTED_AT_ONCE = 4  # before one that is idle can be closed for them: each takes a descriptor
SPARE_DESCRIPTORS = 32  # for those, for files and for processes
FEWEST_CONNECTIONS = 4
OWN = frozenset({b"content-length", b"transfer-encoding", b"connection"})


class Verbatim(bytes):
    """A header's name that stays as it is spelled: uvicorn writes what `lower` makes of names."""

    def lower(self) -> bytes:
        return self


@cache
def spelled(name: bytes) -> bytes:
    """As most servers write it, llama-server too: Access-Control-Allow-Origin. Some clients look no further, though
    case means nothing here. What uvicorn itself looks for stays small.
    """
    return name if name in OWN else Verbatim(name.title())


def most_connections() -> int:
    """That this process can have at a time, by the descriptors that it may open (ulimit -n) and has open."""
    most, n_open = open_descriptors()
    taken = SPARE_DESCRIPTORS if n_open is None else n_open
    room = MOST_CONNECTIONS if most is None else most - taken - SPARE_DESCRIPTORS
    return max(FEWEST_CONNECTIONS, min(room, MOST_CONNECTIONS))


def protocol(timeout_s: float, most: int, on_full: Callable[[], None]) -> type[HttpToolsProtocol]:
    """A protocol that waits so long for somebody to read what was written.

    most: connections at a time; beyond, the one that has been idle for longest is closed, and `on_full` called.
    """
    headers_within = min(timeout_s, HEADER_TIMEOUT_S)
    idle: dict[Any, None] = {}  # those without a request, the longest first

    class Patient(HttpToolsProtocol):
        """Between requests uvicorn's own keep-alive timeout counts."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._bare_bytes = 0
            self._has_headers = False
            self._cycles: list[Any] = []  # of requests that have come and are not answered yet
            self._reading: asyncio.TimerHandle | None = self.loop.call_later(headers_within, self._give_up)
            self._writing: asyncio.TimerHandle | None = None
            idle[self] = None
            if len(self.connections) > most:
                next(iter(idle))._give_up()
                on_full()

        def connection_lost(self, exc: Exception | None) -> None:
            idle.pop(self, None)
            self._stop_waiting()
            self.resume_writing()
            for cycle in self._cycles:  # uvicorn tells the last one only
                cycle.disconnected = True
                cycle.message_event.set()
            self.pipeline.clear()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            between = self.cycle is None or self.cycle.response_complete
            if between and self._reading is None:
                self._reading = self.loop.call_later(headers_within, self._give_up)
            self._bare_bytes += len(data)
            super().data_received(data)
            if self._bare_bytes > MOST_BARE_BYTES:
                self._give_up()

        def on_message_begin(self) -> None:
            self._has_headers = False
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            if not self._has_headers:  # or it is a trailer: nobody asks for those
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._has_headers = True
            self._bare_bytes = 0
            self._stop_waiting()
            idle.pop(self, None)
            super().on_headers_complete()
            self._cycles = [*(cycle for cycle in self._cycles if not cycle.response_complete), self.cycle]
            if len(self.pipeline) > MOST_PIPELINED:
                self._give_up()
                raise ConnectionError("too many requests at once")  # what has come with them is not read either

        def on_body(self, body: bytes) -> None:
            self._bare_bytes = 0
            super().on_body(body)

        def on_response_complete(self) -> None:
            if not self.pipeline and not self.transport.is_closing():
                idle[self] = None
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._writing = self.loop.call_later(timeout_s, self._give_up)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._writing is not None:
                self._writing.cancel()
                self._writing = None

        def _stop_waiting(self) -> None:
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None

        def _give_up(self) -> None:
            idle.pop(self, None)
            self.connections.discard(self)
            self.transport.abort()

    return Patient
