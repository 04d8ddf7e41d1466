"""A server that answers as the page needs it for what a real one does rarely: slow, hostile, broken streams."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from powerinfer_cli.serving.errors import APIError, authentication_error, context_exceeded, not_found, unavailable
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.routes.page import make_page

__all__ = ["FakeServer", "too_long"]

LAYERS = [
    {"index": i, "neurons": 1024, "hot": max(0, 700 - 40 * i), "active": 0.03 + 0.01 * (i % 7)} for i in range(24)
]


@dataclass
class FakeServer:
    """answer: what is written, in pieces; reasoning before it, tool_calls after it. pause: seconds between pieces.
    cut_after: pieces after which the connection breaks. error: told instead. bodies: what was asked, oldest first.
    """

    options: ServerOptions = field(default_factory=ServerOptions)
    answer: list[str] = field(default_factory=lambda: ["Hello", " there", "."])
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    pause: float = 0.0
    cut_after: int | None = None
    error: APIError | None = None
    loading: bool = False
    progress: dict[str, Any] | None = None
    key: str | None = None
    neurons: dict[str, Any] = field(default_factory=lambda: {"layers": LAYERS, "sparse": True, "devices": ["cuda:0"]})
    bodies: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0  # clients that went before the end

    def start(self) -> str:
        """Its URL."""
        config = uvicorn.Config(self._app(), host="127.0.0.1", port=0, log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            self._thread.join(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/"

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)

    def _app(self) -> FastAPI:
        app = FastAPI()
        app.add_exception_handler(APIError, _told)
        app.get("/health")(self._health)
        app.get("/props")(self._props)
        app.post("/v1/chat/completions")(self._chat)
        app.get("/internal/neurons")(self._neurons)
        app.include_router(make_page(self.options).router)
        app.get("/{path:path}")(_missing)
        return app

    def _check(self, request: Request) -> None:
        self._check_loaded()
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            raise authentication_error()

    def _check_loaded(self) -> None:
        if self.loading:
            error = unavailable("Loading model")
            error.extra |= {} if self.progress is None else {"progress": self.progress}
            raise error

    async def _health(self) -> dict[str, str]:
        self._check_loaded()
        return {"status": "ok"}

    async def _props(self, request: Request) -> dict[str, Any]:
        self._check(request)
        params = {"temperature": 0.800000011920929, "top_p": 0.949999988079071, "max_tokens": -1}
        return {"model_path": "/models/fake-7b.gguf", "default_generation_settings": {"params": params}}

    async def _neurons(self, request: Request) -> dict[str, Any]:
        self._check(request)
        return self.neurons

    async def _chat(self, request: Request) -> Response:
        self._check(request)
        self.bodies.append(await request.json())
        if self.error is not None:
            raise self.error
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        done = False
        try:
            for n, delta in enumerate(self._deltas(), 1):
                await asyncio.sleep(self.pause)
                yield _event({"choices": [{"index": 0, "delta": delta}], "timings": _timings(n)})
                if n == self.cut_after:
                    await asyncio.sleep(0.1)  # a browser drops what it has not yet given its page
                    raise ConnectionError
            n = len(self.answer)
            yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            usage = {"prompt_tokens": 10, "completion_tokens": n, "total_tokens": n + 10}
            yield _event({"choices": [], "usage": usage, "timings": _timings(n)})
            yield b"data: [DONE]\n\n"
            done = True
        finally:
            self.left += not done

    def _deltas(self) -> list[dict[str, Any]]:
        calls = [{"tool_calls": [{"index": i, **call}]} for i, call in enumerate(self.tool_calls)]
        return [
            *({"reasoning_content": text} for text in self.reasoning),
            *({"content": text} for text in self.answer),
            *calls,
        ]


def too_long() -> APIError:
    """A conversation that does not fit."""
    return context_exceeded(5000, 4096)


async def _missing() -> Response:
    raise not_found()


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    return JSONResponse(error.body(), error.status, error.headers)


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _timings(n: int) -> dict[str, float]:
    ms = {"prompt_ms": 12.5, "predicted_ms": 40.0 * n, "predicted_per_second": 25.0}
    return {"cache_n": 7, "prompt_n": 3, "predicted_n": n, **ms}
