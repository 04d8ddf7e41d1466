"""Server-sent events: answers that are told while they come."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeAlias

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from powerinfer_cli.serving.errors import APIError
from powerinfer_cli.serving.http.parts import json_parts
from powerinfer_cli.serving.http.replies import Opener, Replies, while_connected
from powerinfer_cli.serving.tasks import Event, Task, weight

__all__ = ["DONE", "error_event", "event_stream", "sse"]

DONE = b"data: [DONE]\n\n"
_PING = b":\n\n"  # a comment, which clients pass over
Batch: TypeAlias = list[tuple[int, Event]]
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the second: proxies shall not collect events
PING_S = 30.0
_LOOP = 512  # of events' weights: what is written in some milliseconds is written in the event loop


def sse(data: Any, event: str | None = None) -> bytes:
    """One event that carries `data` as JSON; `event`: its name, where the protocol has names."""
    name = b"" if event is None else b"event: %s\n" % event.encode()
    return b"%sdata: %s\n\n" % (name, b"".join(json_parts(data)))


def error_event(error: APIError) -> bytes:
    """What went wrong after the first event was sent, as llama-server tells it."""
    return sse(error.body())


async def event_stream(
    receive: Receive,
    service: Opener,
    tasks: Sequence[Task],
    write: Callable[[int, Event], bytes],
    *,
    end: Callable[[], bytes] = lambda: b"",
    error: Callable[[APIError], bytes] = error_event,
    ping_s: float = PING_S,
) -> Response:
    """Have tasks done, and send what `write` makes of (index of the task, event); then what `end` makes.

    Headers are sent with the first event, so an APIError before it is raised here and answered with its status; later
    ones are sent as `error` words them and end the stream. A client that goes cancels all tasks.
    ping_s: silence, before the first event too, after which a comment is sent; 0 or less for never.
    """
    async with AsyncExitStack() as stack:
        replies = await stack.enter_async_context(Replies(service, tasks))
        batches = await stack.enter_async_context(aclosing(replies.batches()))
        first = asyncio.ensure_future(anext(batches))
        stack.push_async_callback(_cancel, first)
        await while_connected(receive, asyncio.wait({first}, timeout=ping_s if ping_s > 0 else None))
        if first.done():
            first.result()  # or its APIError
        return EventStream(stack.pop_all(), first, batches, write, end, error, ping_s)


async def _cancel(future: "asyncio.Future[Any]") -> None:
    future.cancel()
    await asyncio.wait({future})


class EventStream(Response):
    """What `event_stream` returns; it owns the tasks from then on."""

    def __init__(
        self,
        stack: AsyncExitStack,
        first: "asyncio.Future[Batch]",
        batches: AsyncGenerator[Batch, None],
        write: Callable[[int, Event], bytes],
        end: Callable[[], bytes],
        error: Callable[[APIError], bytes],
        ping_s: float,
    ) -> None:
        self.status_code, self.background = 200, None
        self.media_type = "text/event-stream"
        self.init_headers(_HEADERS)
        self._stack, self._first, self._batches = stack, first, batches
        self._write, self._end, self._error = write, end, error
        self._ping_s = ping_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            try:
                await while_connected(receive, self._send_all(send))
            except (APIError, OSError):
                return  # nobody is there to be told

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sender = _Sender(send)
        pings = asyncio.create_task(sender.ping(self._ping_s)) if self._ping_s > 0 else None
        try:
            await sender.send(b"" if self._first.done() else _PING)
            await sender.send(await self._body(await self._first))
            async for batch in self._batches:
                await sender.send(await self._body(batch))
            await sender.send(self._end())
        except APIError as error:
            await sender.send(self._error(error))
        finally:
            if pings is not None:
                pings.cancel()
                await asyncio.gather(pings, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _body(self, batch: Batch) -> bytes:
        if sum(weight(event) for _, event in batch) > _LOOP:
            return await asyncio.to_thread(self._written, batch)
        return self._written(batch)

    def _written(self, batch: Batch) -> bytes:
        return b"".join([self._write(index, event) for index, event in batch])


class _Sender:
    """Sends parts of a body, and a comment after each long silence."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sent_at = asyncio.get_running_loop().time()

    async def send(self, body: bytes) -> None:
        """Waits while the client does not read."""
        if body:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            self._sent_at = asyncio.get_running_loop().time()

    async def ping(self, silence_s: float) -> None:
        """Until cancelled."""
        while True:
            left_s = self._sent_at + silence_s - asyncio.get_running_loop().time()
            await (self.send(_PING) if left_s <= 0 else asyncio.sleep(left_s))
