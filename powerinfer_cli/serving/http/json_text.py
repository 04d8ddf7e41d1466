"""JSON that others send: how much it is, before it is read, and reading it while others are served."""

import json
import json.scanner
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from powerinfer_cli.json_text import STRICTLY, read_json
from powerinfer_cli.serving.http.replies import while_connected
from powerinfer_cli.serving.threads import in_thread

__all__ = ["PartCounter", "TextRoute", "load_json"]

_AT_ONCE = 1 << 16  # bytes, which are read in some milliseconds, whatever they say


class PartCounter:
    """Counts what a JSON text, which comes in pieces, is made of: no fewer than its values and keys are."""

    def __init__(self) -> None:
        self.n_parts = 0
        self._inside = False  # a string
        self._rest = b""  # a backslash, whose character is yet to come

    def push(self, piece: bytes) -> None:
        """The next piece. A pass or two in C, and nothing is kept."""
        piece = self._rest + piece
        n_last = len(piece) - len(piece.rstrip(b"\\"))
        end = len(piece) - n_last % 2
        piece, self._rest = piece[:end], piece[end:]
        texts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(texts[int(self._inside) :: 2])
        self._inside ^= len(texts) % 2 == 0
        self.n_parts += sum(outside.count(mark) for mark in (b",", b":", b"[", b"{"))


# Its scanner is Python's own, not C's, which would keep all other threads waiting until the last value is read.
_decoder = json.JSONDecoder(**STRICTLY)
_decoder.scan_once = json.scanner.py_make_scanner(_decoder)  # type: ignore[attr-defined]  # of an older typeshed


def load_json(body: bytes) -> Any:
    """As read_json reads it, so that other threads may work meanwhile. Raises ValueError or RecursionError."""
    return _decoder.decode(_text(body))


def _text(body: bytes) -> str:
    """JSON is UTF-8. Other encodings, which json.loads would find out, could hide their parts from being counted."""
    return body.decode("utf-8-sig", "surrogatepass")


class _TextRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_value"):
            body = await self.body()
            self._value = read_json(_text(body)) if len(body) <= _AT_ONCE else await in_thread(load_json, body)
        return self._value


class TextRoute(APIRoute):
    """A route whose requests hold texts: they may be large, and then are not read in the event loop.

    What it does until its answer begins is cancelled when the client goes: nobody waits in a line for those.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's place for a request of one's own."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            texts = _TextRequest(request.scope, request.receive)
            await texts.body()  # or what watches for the client's going would take it
            return await while_connected(texts.receive, handle(texts))

        return handled
