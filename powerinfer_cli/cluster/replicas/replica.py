"""One engine and its server in a process of Ray's: the application of `powerinfer server`, asked without a socket."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from powerinfer_cli.cluster.replicas.questions import Head, Part, Question
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.app import make_app
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.service import ServedModel, Service
from powerinfer_cli.serving.tidying import tidying
from powerinfer_cli.system.memory import one_heap

__all__ = ["Replica", "answered"]

Load = Callable[[Callable[[str, int, int], None]], tuple[ServedModel, Any]]
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


async def answered(app: ASGIApp, question: Question, name: str) -> AsyncIterator[Part]:
    """Ask an application. Leaving the iteration early ends it as a client does who goes."""
    messages: asyncio.Queue[Message | BaseException | None] = asyncio.Queue()
    gone = asyncio.Event()
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": question.body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.put_nowait(message)

    async def run() -> None:
        try:
            await app(_scope(question), receive, send)
            messages.put_nowait(None)
        except Exception as error:
            messages.put_nowait(error)

    task = asyncio.create_task(run())
    try:
        async for part in _parts(messages, name):
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


async def _parts(messages: "asyncio.Queue[Message | BaseException | None]", name: str) -> AsyncIterator[Part]:
    """Messages that are there already are joined. The first part of a body is not waited for with the head."""
    head: Head | None = None
    while True:
        found = [await messages.get()]
        while not messages.empty():
            found.append(messages.get_nowait())
        body, last, ended = [], False, False
        for message in found:
            if message is None:
                ended = True
            elif isinstance(message, BaseException):
                raise message
            elif message["type"] == "http.response.start":
                head = Head(message["status"], tuple(message["headers"]), name)
            elif message["type"] == "http.response.body":
                body.append(message.get("body", b""))
                last = last or not message.get("more_body", False)
        if body:
            yield Part(b"".join(body), head, last)
            head = None
        if last or ended:
            return
