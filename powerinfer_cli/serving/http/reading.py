"""Reading the bodies of requests, none of which may be too large, hold too much, or take too long."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from powerinfer_cli.serving.errors import APIError, invalid_request, unavailable
from powerinfer_cli.serving.http.bodies import error_answer
from powerinfer_cli.serving.http.json_text import PartCounter
from powerinfer_cli.serving.http.requests import current
from powerinfer_cli.serving.threads import LARGE
from powerinfer_cli.system.memory import return_memory

__all__ = ["MOST_PARTS", "Bodies"]

LINGER = 2.0  # seconds in which the rest of a body that nobody wants may still come
MOST_PARTS = 1 << 19  # values and keys; a bias for each token of a large vocabulary, for one
PART_BYTES = 100  # that a value or a key takes as an object, about
MOST_HELD = 128 << 20  # bytes that large requests may take together


@dataclass
class _Body:
    """One that comes. held: the bytes that it counts for among those of large requests."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    counter: PartCounter = field(default_factory=PartCounter)
    held: int = 0


class Bodies:
    """Reads a request's body before its handler is called."""

    def __init__(self, app: ASGIApp, most: Callable[[str], int], timeout_s: float) -> None:
        """most: bytes of a body for a path, or APIError. timeout_s: in which all of it must have come."""
        self._app, self._most, self._timeout_s = app, most, timeout_s
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD"):
            await self._app({**scope, "method": "GET"}, receive, send)  # who asks for the head gets it from uvicorn
            return
        body = _Body()
        try:
            whole = await self._read(body, scope, receive, send)
            if whole is not None:
                await self._answer(whole, scope, receive, send)
        finally:
            self._held -= body.held
        if body.size > LARGE:
            del whole
            await asyncio.to_thread(return_memory)

    async def _read(self, body: _Body, scope: Scope, receive: Receive, send: Send) -> bytes | None:
        """None where the client has gone, or was told why it is not served."""
        try:
            most = self._most(scope["path"])
            async with asyncio.timeout(self._timeout_s):
                return await self._collect(body, most, dict(scope["headers"]), receive)
        except APIError as error:
            refusal = error
        except TimeoutError:
            refusal = APIError(408, "invalid_request_error", "the request took too long")
        body.parts.clear()
        await _refuse(refusal, receive, send)
        return None

    async def _collect(self, body: _Body, most: int, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """Raises APIError."""
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            raise _too_large(f"{most} bytes")
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            self._take(body, message.get("body", b""), most)
            more = message.get("more_body", False)
        return b"".join(body.parts)

    def _take(self, body: _Body, piece: bytes, most: int) -> None:
        """Raises APIError where this piece is too much."""
        body.size += len(piece)
        body.counter.push(piece)
        if body.size > most:
            raise _too_large(f"{most} bytes")
        if body.counter.n_parts > MOST_PARTS:
            raise _too_large(f"{MOST_PARTS} values")
        body.parts.append(piece)
        if body.size > LARGE:
            held = 2 * body.size + PART_BYTES * body.counter.n_parts
            self._held += held - body.held
            body.held = held
            if self._held > MOST_HELD:
                raise unavailable("too many large requests")

    async def _answer(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        # llama-server reads JSON whatever the header calls it: curl's -d calls it a form.
        headers = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
        headers.append((b"content-type", b"application/json"))
        record = current.get()
        if record is not None:
            record.n_bytes = len(body)
        given = False

        async def received() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app({**scope, "headers": headers}, received, send)


def _too_large(most: str) -> APIError:
    error = invalid_request(f"the request is larger than {most}")
    error.status = 413
    return error


async def _refuse(error: APIError, receive: Receive, send: Send) -> None:
    """Answer before all is read, and close; but read on for a moment, or the client would see a broken connection."""
    answer = error_answer(error)
    headers = [*answer.raw_headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    try:
        async with asyncio.timeout(LINGER):
            message = await receive()
            while message["type"] != "http.disconnect" and message.get("more_body"):
                message = await receive()
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b""})
