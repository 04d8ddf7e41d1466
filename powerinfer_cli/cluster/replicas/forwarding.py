"""A request goes to a replica, and to another one where that dies; its answer goes to the client as it comes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Send

from powerinfer_cli.cluster.replicas.questions import Head, Part, Question, pieces
from powerinfer_cli.serving.errors import APIError, server_error, unavailable
from powerinfer_cli.serving.http.bodies import error_answer
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.http.replies import while_connected
from powerinfer_cli.serving.http.sse import error_event, sse

__all__ = ["Ask", "Failed", "Lost", "forward", "has_token", "whole"]

TRIES = 8  # replicas that may die under one request before its client is told
EVENTS = b"text/event-stream"


class Lost(Exception):
    """The replica has died, or cannot be reached."""


class Failed(Exception):
    """The replica has failed, and would again."""


Ask = Callable[[Question], AsyncGenerator[Part, None]]
"""Has a replica answer. The iteration raises Lost, Failed, or APIError where none may be asked."""


@dataclass
class _Answer:
    """What the client has of it. head: None before its beginning; begun: tokens were sent."""

    head: Head | None = None
    begun: bool = False

    @property
    def is_stream(self) -> bool:
        return self.head is not None and _is_stream(self.head)


async def forward(
    ask: Ask, question: Question, receive: Receive, send: Send, log: Log, over: asyncio.Event | None = None
) -> None:
    """Streams as they come; what is answered whole, once all of it is there. A replica that dies before a token of its
    answer was sent is not noticed; later, the stream ends with an error's event. So it does once
    `over` is set; what has not begun is answered by 503, then.
    """
    try:
        await while_connected(receive, _forward(ask, question, send, log, over or asyncio.Event()))
    except APIError as error:
        if error.status != 499:  # nobody is there to be told
            raise


async def _forward(ask: Ask, question: Question, send: Send, log: Log, over: asyncio.Event) -> None:
    answer = _Answer()
    try:
        await _before(over, _tried(ask, question, answer, send, log))
    except APIError as error:
        if answer.head is None:
            whole = error_answer(error)
            await send({"type": "http.response.start", "status": error.status, "headers": whole.raw_headers})
            await send({"type": "http.response.body", "body": whole.body})
            return
        event = _worded(question.path, error)
        await send({"type": "http.response.body", "body": event, "more_body": False})


async def _before(over: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Raises APIError, of `work` too."""
    task, end = asyncio.create_task(work), asyncio.create_task(over.wait())
    try:
        await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise unavailable("the server is stopping, and the time that requests had to finish is over")
        await task
    finally:
        end.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _tried(ask: Ask, question: Question, answer: _Answer, send: Send, log: Log) -> None:
    """Raises APIError."""
    for _ in range(TRIES):
        try:
            await _sent(ask(question), answer, send)
            return
        except Lost as error:
            lost = f"a replica has died while it answered{_name(answer)}"
            log.note(f"{lost}: {error}" + ("" if answer.begun else "; another one is asked"))
            if answer.begun:
                raise server_error(f"{lost}: the text ends here, ask again") from error
        except Failed as error:
            log.note(f"failure: {error}")
            raise server_error("the replica has failed; its log says where") from error
    raise unavailable("one replica after the other died: try again")


def _name(answer: _Answer) -> str:
    return "" if answer.head is None else f" ({answer.head.replica})"


async def _sent(parts: AsyncGenerator[Part, None], answer: _Answer, send: Send) -> None:
    """All of one replica's answer. Raises Lost where it is cut off, Failed, APIError."""
    async with aclosing(parts):
        head = None
        held: list[bytes] = []
        async for part in parts:
            head = part.head or head
            if head is None:
                raise Failed("an answer without a beginning")
            if not _is_stream(head):
                held.append(part.body)
                if part.last and answer.head is not None:  # a stream, of which another replica wants to know nothing
                    await _send_body(send, b"data: " + b"".join(held) + b"\n\n", more=True)
                elif part.last:
                    await _begin(answer, head, send)
                    await _send_body(send, b"".join(held), more=False)
            else:
                if answer.head is None:
                    await _begin(answer, head, send)
                answer.begun = answer.begun or has_token(part.body)
                await send({"type": "http.response.body", "body": part.body, "more_body": not part.last})
            if part.last:
                return
    raise Lost("its answer was cut off")


async def _send_body(send: Send, body: bytes, *, more: bool) -> None:
    *before, rest = pieces(body)
    for piece in before:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": rest, "more_body": more})


async def _begin(answer: _Answer, head: Head, send: Send) -> None:
    answer.head = head
    headers = [*head.headers, (b"x-powerinfer-replica", head.replica.encode())]
    await send({"type": "http.response.start", "status": head.status, "headers": headers})


def _is_stream(head: Head) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(EVENTS) for name, value in head.headers)


def has_token(piece: bytes) -> bool:
    """Whether a piece of a stream has more than comments, what opens an answer, and how far its prompt is read."""
    events = [event for event in piece.split(b"\n\n") if event and not event.startswith(b":")]
    # Inside of strings these quotes would have a backslash before them.
    return any(b'"prompt_progress":{' not in event and b'"content":null' not in event for event in events)


def _worded(path: str, error: APIError) -> bytes:
    """The end of a stream, as its protocol says what went wrong."""
    if path == "/v1/messages":
        return sse({"type": "error", **error.body()}, "error")
    if path in ("/v1/responses", "/responses"):
        return sse({"type": "error", **error.body()["error"]}, "error")
    return error_event(error)


async def whole(ask: Ask, question: Question) -> tuple[Head, bytes]:
    """What one replica answers at once. Raises Lost, Failed, APIError."""
    head, pieces = None, []
    async with aclosing(ask(question)) as parts:
        async for part in parts:
            head = part.head or head
            pieces.append(part.body)
            if part.last and head is not None:
                return head, b"".join(pieces)
    raise Lost("its answer was cut off")
