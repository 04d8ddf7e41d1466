"""One engine and its server in a process of Ray's: the application of `powerinfer server`, asked without a socket."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope

from powerinfer_cli.cluster.replicas.questions import Head, Part, Question, pieces
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.app import make_app
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.service import ServedModel, Service
from powerinfer_cli.serving.tidying import tidying
from powerinfer_cli.system.memory import one_heap

__all__ = ["Replica", "answered"]

Load = Callable[[Callable[[str, int, int], None]], tuple[ServedModel, Any]]
PACE_S = 0.04  # 25 parts a second of one stream: each costs Ray's processes a millisecond or three
WRONG = "wrong: "  # begins what a replica says that cannot be, for whoever reads Ray's messages


class Replica:
    """Ray Serve calls what has no underscore."""

    async def __init__(self, load: Load, options: ServerOptions, log: Log) -> None:  # type: ignore[misc]  # Serve awaits
        """load: called once, in a thread. Keys and pages are the door's affair."""
        from ray import serve

        one_heap()
        sys.stderr = sys.__stderr__ or sys.stderr  # Serve's goes to a file of Ray's
        self._name = serve.get_replica_context().replica_id.unique_id
        options = replace(options, api_keys=frozenset(), cors_origins=("*",), ui=False, page=None)
        self._service = Service(options)
        self._app = make_app(self._service, log)
        try:
            model, thread = await asyncio.to_thread(load, self._service.load_step)
        except PowerInferError as error:
            raise RuntimeError(f"{WRONG}{error}") from None
        gc.collect()
        gc.freeze()
        self._service.ready(model, thread)
        self._tidying = asyncio.create_task(tidying(self._service))

    async def answer(self, question: Question) -> AsyncIterator[Part]:
        """What the server answers, part by part: all that has come goes in one."""
        async for part in answered(self._app, question, self._name):
            yield part

    def check_health(self) -> None:
        """Raises RuntimeError: the engine's thread has ended."""
        if not self._service.thread.alive:
            raise RuntimeError("the engine's thread has ended")


async def answered(app: ASGIApp, question: Question, name: str, pace_s: float = PACE_S) -> AsyncIterator[Part]:
    """Ask an application. Leaving the iteration early ends it as a client does who goes.

    pace_s: since the last part, in which what comes is collected. The first part waits for nothing, nor does the end.
    """
    messages = _Messages()
    gone = asyncio.Event()
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": question.body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    task = asyncio.create_task(messages.of(app, _scope(question), receive))
    try:
        async for part in messages.parts(name, pace_s):
            yield part
    finally:
        gone.set()
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _scope(question: Question) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": question.method,
        "scheme": "http",
        "path": question.path,
        "raw_path": question.path.encode("utf-8", "replace"),
        "query_string": question.query,
        "root_path": "",
        "headers": list(question.headers),
        "client": None,
        "server": None,
        "state": {},
    }


class _Messages:
    """What an application sends, until it has ended."""

    def __init__(self) -> None:
        self._come: list[Message] = []
        self._some, self._ended = asyncio.Event(), asyncio.Event()
        self._failure: Exception | None = None

    async def of(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        """Have it answer."""
        try:
            await app(scope, receive, self._send)
        except Exception as error:
            self._failure = error
        self._end()

    async def _send(self, message: Message) -> None:
        self._come.append(message)
        self._some.set()
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._end()

    def _end(self) -> None:
        self._ended.set()
        self._some.set()

    async def parts(self, name: str, pace_s: float) -> AsyncIterator[Part]:
        """Raises what the application raised."""
        clock = asyncio.get_running_loop().time
        head: Head | None = None
        due = clock()
        while True:
            await self._some.wait()
            if not self._ended.is_set() and (left_s := due - clock()) > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), left_s)
            self._some.clear()
            come, self._come = self._come, []
            body = [message.get("body", b"") for message in come if message["type"] == "http.response.body"]
            for message in come:
                if message["type"] == "http.response.start":
                    # The server's own names of headers are bytes that stay as they are spelled.
                    headers = tuple((bytes.lower(key), bytes(value)) for key, value in message["headers"])
                    head = Head(message["status"], headers, name)
            last = bool(body) and not come[-1].get("more_body", False)
            if body:
                *before, rest = pieces(b"".join(body))
                for piece in before:
                    yield Part(piece, head)
                    head = None
                yield Part(rest, head, last)
                head, due = None, clock() + pace_s
            if self._failure is not None:
                raise self._failure
            if last or (self._ended.is_set() and not self._come):
                return
