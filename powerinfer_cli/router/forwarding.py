"""A request goes on to a model's process, and its answer comes back as it is written."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from urllib.parse import quote

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from powerinfer_cli.printable import printable
from powerinfer_cli.router.entries import Entry
from powerinfer_cli.router.pool import Instance, Pool
from powerinfer_cli.router.process import ModelProcess
from powerinfer_cli.serving.errors import APIError, invalid_request, unavailable
from powerinfer_cli.serving.http.replies import while_connected
from powerinfer_cli.serving.http.sse import error_event

__all__ = ["forward"]

Headers = list[tuple[bytes, bytes]]

# Of one connection only (RFC 9110, 7.6.1), written anew by the next one, or the router's own affair.
OWN = frozenset(
    b"connection content-length host keep-alive proxy-connection te trailer transfer-encoding upgrade "
    b"authorization x-api-key origin server date".split()
)
EVENTS = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
IN_QUERIES = "=&%+/:;,?@!$'()*[]~"  # as they came; the rest may be anything
PATIENCE_S = 1.0  # before a client that wants events is told that its model loads
ENDING_S = 2.0  # that a process may take to be seen as ended, once its connection is


async def forward(
    request: Request, body: bytes, entry: Entry, pool: Pool, *, events: bool = False, delay_s: float = 0.0
) -> Response:
    """What the model answers; it is loaded for that, if need be. events: the client reads events, and is told of
    loading in comments meanwhile. delay_s: before a model that is there is asked.

    Raises:
        APIError: the model cannot be loaded, or its process ends before it answers.
    """
    async with AsyncExitStack() as stack:
        entering = asyncio.ensure_future(stack.enter_async_context(pool.using(entry)))
        stack.push_async_callback(_cancel, entering)
        await while_connected(request.receive, asyncio.wait({entering}, timeout=PATIENCE_S if events else None))
        if not entering.done():
            return Forwarded(stack.pop_all(), entering, request, body, pool.instance(entry))
        process = entering.result()
        if delay_s:
            await asyncio.sleep(delay_s)
        answer = await while_connected(request.receive, _ask(process, request, body, stack))
        return Forwarded(stack.pop_all(), entering, request, body, pool.instance(entry), answer)


async def _cancel(future: "asyncio.Future[ModelProcess]") -> None:
    future.cancel()
    await asyncio.wait({future})


async def _ask(process: ModelProcess, request: Request, body: bytes, stack: AsyncExitStack) -> httpx.Response:
    """The head of the answer. Raises APIError."""
    path, query = quote(request.scope["path"]), quote(request.scope["query_string"], safe=IN_QUERIES)
    try:
        url = httpx.URL(path=path, query=query.encode())
    except httpx.InvalidURL as error:
        raise invalid_request("the address is too long") from error
    headers = _passed(request.scope["headers"])
    asked = process.client.build_request(request.method, url, headers=headers, content=body or None)
    try:
        answer = await process.client.send(asked, stream=True)
    except (httpx.TransportError, RuntimeError) as error:  # RuntimeError: its client is closed already
        raise await _ending(process) from error
    stack.push_async_callback(answer.aclose)
    return answer


async def _ending(process: ModelProcess) -> APIError:
    try:
        await asyncio.wait_for(process.ended.wait(), ENDING_S)
    except TimeoutError:
        return unavailable("the model's process closed the connection: try again")
    return unavailable(f"the model's process has ended (code {process.exit_code}): try again, and it is loaded anew")


def _passed(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in OWN]


class Forwarded(Response):
    """Owns its place at the model, and gives it back when the answer has been sent, or nobody reads it."""

    def __init__(
        self,
        stack: AsyncExitStack,
        entering: "asyncio.Future[ModelProcess]",
        request: Request,
        body: bytes,
        one: Instance,
        answer: httpx.Response | None = None,
    ) -> None:
        """answer: its head, None where the model loads still and the client reads events."""
        self.status_code, self.background = 200 if answer is None else answer.status_code, None
        self.raw_headers = (
            [(name.encode(), value.encode()) for name, value in EVENTS.items()]
            if answer is None
            else _with_length(answer)
        )
        self._stack, self._entering, self._request, self._asked = stack, entering, request, body
        self._one, self._answer = one, answer
        self._events = answer is None or answer.headers.get("content-type", "").startswith("text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            try:
                await while_connected(receive, self._send_all(send))
            except (APIError, OSError):
                return  # nobody is there to be told

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self._pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self) -> AsyncIterator[bytes]:
        try:
            if self._answer is None:
                async for comment in self._loading():
                    yield comment
                process = self._entering.result()
                self._answer = await _ask(process, self._request, self._asked, self._stack)
                if self._answer.status_code != 200:  # too late for a status of its own
                    yield b"data: " + await self._answer.aread() + b"\n\n"
                    return
            try:
                async for piece in self._answer.aiter_raw():
                    yield piece
            except httpx.TransportError as error:
                if not self._events:
                    raise ConnectionError from error  # the client sees that the answer was cut off
                raise await _ending(self._entering.result()) from error
        except APIError as error:
            yield error_event(error)

    async def _loading(self) -> AsyncIterator[bytes]:
        """A comment a second until the model is there."""
        seconds = PATIENCE_S
        while not self._entering.done():
            name, how_far = self._one.entry.name, str(self._one.progress or "waiting for room")
            yield f": loading {printable(name)}, {printable(how_far)}, {seconds:.0f} s\n\n".encode()
            await asyncio.wait({self._entering}, timeout=1.0)
            seconds += 1.0


def _with_length(answer: httpx.Response) -> Headers:
    headers = _passed(answer.headers.raw)
    length = answer.headers.get("content-length")
    return headers if length is None else [*headers, (b"content-length", length.encode())]
