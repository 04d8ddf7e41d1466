"""Who leaves before an answer begins holds up nobody: what was to be done for them is not done."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from fastapi.routing import APIRoute

from powerinfer_cli.sampling.grammars.grammar import NotKeptError, only_kept
from powerinfer_cli.serving import compiling, threads
from powerinfer_cli.serving.app import make_app
from powerinfer_cli.serving.http.json_text import TextRoute
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.routes import ROUTERS
from powerinfer_cli.serving.service import Service
from tests.serving.fake_service import FakeGrammars, FakeModel, FakeService

ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
TEXT_PATHS = sorted(route.path for route in ROUTES if isinstance(route, TextRoute))


class NewGrammars(FakeGrammars):
    """None is known, and those that are compiled are listed."""

    def __init__(self) -> None:
        self.compiled: list[str] = []

    def gbnf(self, text: str) -> Any:
        if only_kept.get():
            raise NotKeptError
        self.compiled.append(text)
        return lambda: None


@pytest.fixture(scope="module")
def busy() -> Iterator[threading.Event]:
    """Until it is set, the lines of large requests and of grammars stand still."""
    release = threading.Event()
    held = [pool.submit(release.wait, 120) for pool in (threads._large, compiling._line._thread)]
    yield release
    release.set()
    for one in held:
        one.result()


def app_of(grammars: FakeGrammars) -> Any:
    options = ServerOptions(embedding=True, pooling="mean")
    service = FakeService(lambda task: [], options, FakeModel(grammars=grammars))
    return make_app(cast(Service, service), Log(quiet=True))


async def leave(app: Any, path: str, body: dict[str, Any]) -> int:
    """Ask, and go; the status that nobody reads."""
    content = json.dumps(body).encode()
    messages = iter([{"type": "http.request", "body": content, "more_body": False}])
    told: list[dict[str, Any]] = []

    async def receive() -> Any:
        await asyncio.sleep(0.01)
        return next(messages, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        told.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    async with asyncio.timeout(60):
        await app(scope, receive, send)
    return int(told[0]["status"])


def test_a_large_request_leaves_its_line(busy: threading.Event) -> None:
    app, body = app_of(FakeGrammars()), {"content": "x" * threads.LARGE}
    told = {path: asyncio.run(leave(app, path, body)) for path in TEXT_PATHS}
    assert told == dict.fromkeys(TEXT_PATHS, 499)
    assert not busy.is_set()


def test_a_new_grammar_leaves_its_line(busy: threading.Event) -> None:
    grammars = NewGrammars()
    app, body = app_of(grammars), {"prompt": "Once", "grammar": 'root ::= "a"'}
    told = [asyncio.run(leave(app, path, body)) for path in ("/completion", "/v1/completions")]
    assert (told, grammars.compiled, busy.is_set()) == ([499, 499], [], False)
