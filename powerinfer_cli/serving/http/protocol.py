"""HTTP on a socket, whose patience ends: with headers that do not come, and with readers who do not read."""

import asyncio
from functools import cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["protocol", "spelled"]

MOST_HEADER_BYTES = 1 << 16
HEADER_TIMEOUT_S = 30.0
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


def protocol(timeout_s: float) -> type[HttpToolsProtocol]:
    """A protocol that waits so long for somebody to read what was written."""
    headers_within = min(timeout_s, HEADER_TIMEOUT_S)

    class Patient(HttpToolsProtocol):
        """Between requests uvicorn's own keep-alive timeout counts."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._header_bytes = 0
            self._reading: asyncio.TimerHandle | None = self.loop.call_later(headers_within, self._give_up)
            self._writing: asyncio.TimerHandle | None = None

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            self.resume_writing()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            between = self.cycle is None or self.cycle.response_complete
            if between and self._reading is None:
                self._reading = self.loop.call_later(headers_within, self._give_up)
            if self._reading is not None:
                self._header_bytes += len(data)
            super().data_received(data)
            if self._reading is not None and self._header_bytes > MOST_HEADER_BYTES:
                self._give_up()

        def on_headers_complete(self) -> None:
            self._stop_waiting()
            super().on_headers_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._writing = self.loop.call_later(timeout_s, self._give_up)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._writing is not None:
                self._writing.cancel()
                self._writing = None

        def _stop_waiting(self) -> None:
            self._header_bytes = 0
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None

        def _give_up(self) -> None:
            self.transport.abort()

    return Patient
