"""A Service whose thread answers from a script, for handlers without a server process."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx

import powerinfer_cli
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.serving.app import make_app
from powerinfer_cli.serving.errors import APIError
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import Event, Failed, Finished, Stop, Task, TextPiece, Timings
from powerinfer_cli.text import Tokenizer

MODEL = Path(powerinfer_cli.__file__).parent / "bundled" / "storyteller.powerinfer.gguf"


@cache
def bundled_tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(MODEL)


@cache
def bundled_metadata() -> dict[str, Any]:
    with open_gguf(MODEL) as file:
        return dict(file.metadata)


class FakeGrammars:
    """Remembers what was asked for; "bad" is malformed."""

    def gbnf(self, text: str) -> Any:
        if text == "bad":
            raise PowerInferError("line 1: expected ::=")
        return "gbnf", text

    def json_schema(self, schema: dict[str, Any]) -> Any:
        return "schema", schema


@dataclass
class FakeModel:
    tokenizer: Tokenizer = field(default_factory=bundled_tokenizer)
    metadata: dict[str, Any] = field(default_factory=bundled_metadata)
    grammars: FakeGrammars = field(default_factory=FakeGrammars)
    name: str = "fake"
    names: tuple[str, ...] = ("fake",)
    n_ctx_slot: int = 512
    n_slots: int = 4
    config: Any = field(default_factory=lambda: SimpleNamespace(n_embd=2, writes=True, pooling=None))
    ranks: bool = True


class FakeReply:
    """Tells a script of events for each task, in turn; None in one waits for ever."""

    def __init__(self, scripts: Sequence[Iterable[Event | None]]) -> None:
        self._scripts = deque((i, iter(script)) for i, script in enumerate(scripts))
        self._stuck = False
        self.left = False

    async def __aenter__(self) -> "FakeReply":
        return self

    async def __aexit__(self, *error: object) -> None:
        self.left = True

    def waiting(self) -> list[tuple[int, Event]]:
        return []

    def __aiter__(self) -> "FakeReply":
        return self

    async def __anext__(self) -> tuple[int, Event]:
        await asyncio.sleep(0)
        while self._scripts:
            index, script = self._scripts.popleft()
            try:
                event = next(script)
            except StopIteration:
                continue
            if isinstance(event, Failed):
                raise event.error
            if event is not None:
                self._scripts.append((index, script))
                return index, event
            self._stuck = True
        if self._stuck:
            await asyncio.Event().wait()
        raise StopAsyncIteration


@dataclass
class FakeService:
    """script: what is told of a task."""

    script: Callable[[Task], Iterable[Event | None]]
    options: ServerOptions = field(default_factory=ServerOptions)
    model: FakeModel = field(default_factory=FakeModel)
    tasks: list[Task] = field(default_factory=list)
    replies: list[FakeReply] = field(default_factory=list)
    most: int = 64
    state: str = "ready"
    sleeper: None = None

    def refusal(self) -> APIError | None:
        return None if self.state != "loading" else APIError(503, "unavailable_error", "Loading model")

    def open(self, tasks: Sequence[Task]) -> FakeReply:
        if len(self.tasks) + len(tasks) > self.most:
            raise APIError(503, "unavailable_error", "too many wait")
        self.tasks += tasks
        self.replies.append(FakeReply([self.script(task) for task in tasks]))
        return self.replies[-1]


def post(path: str, body: Any, script: Any, **changes: Any) -> tuple[httpx.Response, FakeService]:
    """What the application answers, in this process."""
    service = FakeService(script, **changes)
    app: Any = make_app(cast(Service, service), Log(quiet=True))

    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            response = await client.post(path, content=json.dumps(body))
            # Names that keep their spelling (protocol.spelled) would keep it here, too; a socket makes bytes of them.
            response.headers = httpx.Headers([(bytes(name), value) for name, value in response.headers.raw])
            return response

    return asyncio.run(main()), service


def timings(n: int = 1) -> Timings:
    return Timings(cache_n=2, prompt_n=3, prompt_ms=6.0, predicted_n=n, predicted_ms=10.0)


def piece(text: str, *tokens: int, n: int = 1) -> TextPiece:
    return TextPiece(text, tokens, (), timings(n))


def finished(stop: Stop = Stop.END, n: int = 2, **changes: Any) -> Finished:
    values: dict[str, Any] = {
        "stop": stop,
        "stopping_word": "",
        "truncated": False,
        "timings": timings(n),
        "id_slot": 1,
        "n_prompt": 5,
        "tokens_cached": 7,
        "seed": 42,
    }
    return Finished(**{**values, **changes})
