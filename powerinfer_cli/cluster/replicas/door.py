"""What clients reach: keys, pages and limits as `powerinfer server` has them; all else is a replica's."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from powerinfer_cli.cluster.replicas.forwarding import Ask, Failed, Lost, forward, whole
from powerinfer_cli.cluster.replicas.prefixes import prefix_of
from powerinfer_cli.cluster.replicas.questions import LARGEST, Question
from powerinfer_cli.json_text import read_json
from powerinfer_cli.serving.errors import APIError, not_supported, unavailable
from powerinfer_cli.serving.http.bodies import Answer, error_answer
from powerinfer_cli.serving.http.failures import handle_failures
from powerinfer_cli.serving.http.joined_metrics import joined
from powerinfer_cli.serving.http.json_text import load_json
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.http.middleware import Gate
from powerinfer_cli.serving.http.reading import Bodies
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.routes.page import WebPage, make_page
from powerinfer_cli.serving.threads import in_thread

__all__ = ["Door", "make_door"]

AT_ONCE = 1 << 16  # bytes of JSON that are read in the event loop
ASKING_S = 5.0  # that one replica may take to tell of itself
# What the door has looked at already, and replicas have no use for.
OWN = frozenset(b"authorization x-api-key host connection content-length transfer-encoding origin".split())
ANSWERING = (
    "# HELP powerinfer:replicas Replicas that answer\n# TYPE powerinfer:replicas gauge\npowerinfer:replicas %d\n"
)
# Of what is sent, what no slot has to be waited for.
QUICK = re.compile(r".*/(?:input_tokens|count_tokens)|/(?:tokenize|detokenize|apply-template|props|lora-adapters)")


class Door:
    """The application behind the gate. `stopping`: nobody is let in any more. `busy`: requests under way.
    `over`: set, they end.
    """

    def __init__(
        self, ask: Ask, replicas: Callable[[], Sequence[str]], options: ServerOptions, log: Log, each: int = 2
    ) -> None:
        """replicas: the names of those that are there now. each: texts that one is given; as many as `options.queue`
        more wait. What needs no slot does not count: who looks at a server that is full is told so.
        """
        self._ask, self._replicas, self._options, self._log, self._each = ask, replicas, options, log, each
        self.stopping, self.busy, self._texts = False, 0, 0
        self.over = asyncio.Event()

    def refusal(self) -> APIError | None:
        """Of everybody."""
        return unavailable("the server is stopping") if self.stopping else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.busy += 1
        try:
            found = await self._own(scope)
            if found is not None:
                await found(scope, receive, send)
                return
            question = await _question(scope, receive)
            with self._counted(question):
                await forward(self._ask, question, receive, send, self._log, self.over)
        except APIError as error:
            await error_answer(error)(scope, receive, send)
        finally:
            self.busy -= 1

    @contextmanager
    def _counted(self, question: Question) -> Iterator[None]:
        """Raises APIError: it would wait, and so do too many already."""
        if question.writes and self._texts >= self._each * len(self._replicas()) + max(1, self._options.queue):
            raise unavailable("too many requests wait already")
        self._texts += question.writes
        try:
            yield
        finally:
            self._texts -= question.writes

    async def _own(self, scope: Scope) -> Response | None:
        """What is told of all replicas together."""
        path, asks = scope["path"], scope["method"] == "GET"
        if asks and path in ("/health", "/v1/health"):
            if await self._one(None, "/health") is None:
                return error_answer(unavailable("no replica answers"))
            return Answer({"status": "ok"})
        if asks and path == "/metrics":
            return await self._metrics()
        if asks and path == "/slots":
            return await self._slots(scope["query_string"])
        if path.startswith("/slots/"):
            raise not_supported("Slots are of one replica each: a cluster neither saves nor restores them")
        return None

    async def _metrics(self) -> Response:
        if not self._options.metrics:
            raise not_supported("This server does not support metrics endpoint. Start it with `--metrics`")
        told = await self._told("/metrics")
        texts = {name: body.decode("utf-8", "replace") for name, body in told.items()}
        return Response(ANSWERING % len(told) + joined(texts, "replica"), media_type="text/plain; version=0.0.4")

    async def _slots(self, query: bytes) -> Response:
        if not self._options.slots:
            raise not_supported("This server does not support slots endpoint. Start it with `--slots`")
        slots = [
            {**slot, "replica": name} for name, body in (await self._told("/slots")).items() for slot in read_json(body)
        ]
        if parse_qs(query).get(b"fail_on_no_slot") and all(slot["is_processing"] for slot in slots):
            raise unavailable("no slot available")
        return Answer(slots)

    async def _told(self, path: str) -> Mapping[str, bytes]:
        """By replica, what those that are there answer to a GET."""
        if not self._replicas():  # nobody was asked anything yet
            await self._one(None, "/health")
        names = sorted(self._replicas())
        answers = await asyncio.gather(*(self._one(name, path) for name in names))
        return {name: body for name, body in zip(names, answers, strict=True) if body is not None}

    async def _one(self, name: str | None, path: str) -> bytes | None:
        try:
            async with asyncio.timeout(ASKING_S):
                head, body = await whole(self._ask, Question("GET", path, replica=name))
        except (TimeoutError, Lost, Failed, APIError):
            return None
        return body if head.status == 200 else None


async def _question(scope: Scope, receive: Receive) -> Question:
    """Raises APIError."""
    method, path = scope["method"], scope["path"]
    body = b"" if method == "GET" else (await receive()).get("body", b"")
    fields = await _fields(body)
    headers = tuple((name, value) for name, value in scope["headers"] if name.lower() not in OWN)
    prefix = prefix_of(fields) if len(body) <= AT_ONCE else await in_thread(prefix_of, fields)
    writes = method == "POST" and not QUICK.fullmatch(path)
    return Question(method, path, scope["query_string"], headers, body, prefix, writes)


async def _fields(body: bytes) -> dict[str, Any]:
    """Of a JSON object; of anything else none: a replica says what is wrong with it."""
    try:
        text = body.decode("utf-8-sig", "surrogatepass")
        value = read_json(text or "{}") if len(body) <= AT_ONCE else await in_thread(load_json, body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def make_door(door: Door, options: ServerOptions) -> ASGIApp:
    """All of it, as Serve takes it. Raises PowerInferError for a --path that is no folder."""
    page = make_page(options)
    of_page = _page_app(page)

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        asks = scope["method"] == "GET" and page.has(scope["path"])
        await (of_page if asks else door)(scope, receive, send)

    gate = Gate(Bodies(either, lambda path: LARGEST, options.timeout_s), options, door.refusal, page.has)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            path = re.sub("//+", "/", scope["path"])
            await gate({**scope, "path": path, "raw_path": path.encode("utf-8", "replace")}, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    return application


def _page_app(page: WebPage) -> FastAPI:
    app = FastAPI(title="powerinfer", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.include_router(page.router)
    handle_failures(app)
    return app


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
