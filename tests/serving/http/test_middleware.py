"""What requests pass, around a handler that tells what reached it. No server, no model."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from powerinfer_cli.serving.errors import server_error
from powerinfer_cli.serving.http.bodies import Answer, error_answer
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.http.middleware import Access, Bodies, Gate, allowed_origin
from powerinfer_cli.serving.options import ServerOptions


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive() if scope["method"] == "POST" else {"body": b""}
    if message["body"] == b"fail":
        raise RuntimeError("a secret")
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    body = {"path": scope["path"], "method": scope["method"], "body": message["body"].decode(), "headers": headers}
    await Answer(body)(scope, receive, send)


def ask(app: ASGIApp, method: str, path: str, **more: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **more)

    return asyncio.run(run())


def bodies(**options: Any) -> ASGIApp:
    return Bodies(echo, ServerOptions(**options))


def gate(ready: bool = True, **options: Any) -> ASGIApp:
    return Gate(echo, ServerOptions(**options), lambda: ready, {"/", "/app.js"}.__contains__)


async def parts(*chunks: bytes, every_s: float = 0.0) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(every_s)
        yield chunk


def test_a_body_may_be_as_large_as_the_limit() -> None:
    assert ask(bodies(body_bytes=4), "POST", "/x", content=b"abcd").json()["body"] == "abcd"
    assert ask(bodies(body_bytes=4), "POST", "/x", content=parts(b"ab", b"cd")).json()["body"] == "abcd"


@pytest.mark.parametrize("content", [lambda: b"abcde", lambda: parts(b"abc", b"de")], ids=["length", "chunks"])
def test_a_larger_body_is_refused(content: Callable[[], Any]) -> None:
    answer = ask(bodies(body_bytes=4), "POST", "/x", content=content())
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"
    assert answer.json()["error"] == {
        "code": 413,
        "message": "the request is larger than 4 bytes",
        "type": "invalid_request_error",
    }


def test_a_body_that_does_not_come_is_refused() -> None:
    answer = ask(bodies(timeout_s=0.05), "POST", "/x", content=parts(b"a", b"b", every_s=0.04))
    assert answer.status_code == 408
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_every_body_is_json_and_heads_are_gets() -> None:
    form = ask(bodies(), "POST", "/x", data={"a": "b"}).json()
    assert form["headers"]["content-type"] == "application/json"
    lengths = [ask(bodies(), method, "/x").headers["content-length"] for method in ("GET", "HEAD")]
    assert lengths[0] == lengths[1]


def test_only_those_with_a_key_come_in() -> None:
    app = gate(api_keys=frozenset({"one", "zwölf"}))
    for headers in ({"Authorization": "Bearer one"}, {"X-Api-Key": "one"}, {"Authorization": "Bearer zwölf".encode()}):
        assert ask(app, "GET", "/slots", headers=headers).status_code == 200
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer on"},
        {"Authorization": "Basic one"},
        {"X-Api-Key": "two"},
        {"Authorization": "Bearer two", "X-Api-Key": "one"},
    ]
    for headers in wrong:
        answer = ask(app, "GET", "/slots", headers=headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
    for path in ("/health", "/v1/health", "/", "/app.js"):
        assert ask(app, "GET", path).status_code == 200


def test_while_the_model_loads() -> None:
    app = gate(ready=False, api_keys=frozenset({"one"}))
    for path in ("/health", "/v1/models", "/nowhere"):
        answer = ask(app, "GET", path)
        assert answer.status_code == 503
        assert answer.json() == {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
        assert int(answer.headers["retry-after"]) > 0
    assert ask(app, "GET", "/").status_code == 200


@pytest.mark.parametrize(
    ("origin", "allowed", "told"),
    [
        ("http://a.b", ("*",), "http://a.b"),
        ("", ("*",), "*"),
        ("http://a.b", ("http://a.b", "http://c.d"), "http://a.b"),
        ("http://e.f", ("http://a.b",), ""),
        ("http://localhost:3000", ("localhost",), "http://localhost:3000"),
        ("http://[::1]:3000", ("localhost",), "http://[::1]:3000"),
        ("http://127.0.0.1", ("localhost",), "http://127.0.0.1"),
        ("http://localhost.evil.com", ("localhost",), ""),
        ("http://notlocalhost", ("localhost",), ""),
        ("http://[", ("localhost",), ""),
        ("", ("localhost",), ""),
    ],
)
def test_origins(origin: str, allowed: tuple[str, ...], told: str) -> None:
    assert allowed_origin(origin, allowed) == told


def test_preflight_needs_neither_key_nor_model() -> None:
    answer = ask(gate(ready=False, api_keys=frozenset({"one"})), "OPTIONS", "/completions", headers={"Origin": "o"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["access-control-allow-origin"] == "o"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["access-control-allow-methods"] == "GET, POST, DELETE, OPTIONS"
    assert answer.headers["access-control-allow-headers"] == "*"
    refused = ask(gate(cors_origins=("localhost",)), "GET", "/", headers={"Origin": "http://evil.com"})
    assert "access-control-allow-origin" not in refused.headers


def test_an_error_is_told_across_origins_too() -> None:
    answer = ask(gate(api_keys=frozenset({"one"})), "POST", "/completions", headers={"Origin": "http://a.b"})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "http://a.b"


def test_paths_are_mended_and_logged_as_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    app = Access(echo, Log())
    assert ask(app, "GET", "/v1//chat///x").json()["path"] == "/v1/chat/x"
    ask(app, "GET", "/a%0Ab%1B")
    ask(app, "GET", "/health")
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("GET /v1/chat/x 200 ")
    assert second.startswith("GET /a?b? 200 ")


def test_a_failure_is_logged_without_what_it_says(capfd: pytest.CaptureFixture[str]) -> None:
    ask(Access(Bodies(echo, ServerOptions()), Log(as_json=True)), "POST", "/x", content=b"fail")
    failure, request = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert failure["text"].startswith("failure: RuntimeError in test_middleware.py")
    assert "secret" not in failure["text"]
    assert request["path"] == "/x"


def test_bodies_of_errors() -> None:
    assert json.loads(bytes(error_answer(server_error("x\ud800")).body)) == {
        "error": {"code": 500, "message": "x?", "type": "server_error"}
    }
