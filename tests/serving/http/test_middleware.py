"""What requests pass, around a handler that tells what reached it. No server, no model."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from powerinfer_cli.serving.errors import server_error, unavailable
from powerinfer_cli.serving.http.bodies import Answer, error_answer
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.http.middleware import Access, Gate
from powerinfer_cli.serving.http.origins import allowed_origin, named_origin
from powerinfer_cli.serving.http.reading import Bodies
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


def gate(ready: bool = True, **options: Any) -> ASGIApp:
    loading = None if ready else unavailable("Loading model")
    return Gate(echo, ServerOptions(**options), lambda: loading, {"/", "/app.js"}.__contains__)


def test_only_those_with_a_key_come_in() -> None:
    app = gate(api_keys=frozenset({"one", "zwölf"}))
    right: list[dict[str, Any]] = [
        {"Authorization": "Bearer one"},
        {"Authorization": "bearer one"},
        {"Authorization": "BEARER  one"},
        {"Authorization": "one"},
        {"X-Api-Key": "one"},
        {"Authorization": "Bearer zwölf".encode()},
        {"Authorization": "Bearer two", "X-Api-Key": "one"},
        {"Authorization": "Bearer one", "X-Api-Key": "two"},
    ]
    for headers in right:
        assert ask(app, "GET", "/slots", headers=headers).status_code == 200
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer on"},
        {"Authorization": "Basic one"},
        {"X-Api-Key": "two"},
        {"Authorization": "Bearer two", "X-Api-Key": "three"},
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
        ("http://127.0.0.5:3000", ("localhost",), "http://127.0.0.5:3000"),
        ("http://0.0.0.0:3000", ("localhost",), "http://0.0.0.0:3000"),
        ("http://app.localhost:3000", ("localhost",), "http://app.localhost:3000"),
        ("http://localhost.evil.com", ("localhost",), ""),
        ("http://127.0.0.1.evil.com", ("localhost",), ""),
        ("http://localhost@evil.com", ("localhost",), ""),
        ("http://notlocalhost", ("localhost",), ""),
        ("http://[", ("localhost",), ""),
        ("", ("localhost",), ""),
    ],
)
def test_origins(origin: str, allowed: tuple[str, ...], told: str) -> None:
    assert allowed_origin(origin, allowed) == told


def test_an_origin_is_named_as_browsers_write_it() -> None:
    told = [named_origin(text) for text in ("http://A.b/", "https://a.b:8443", "app://obsidian.md", "localhost", "*")]
    assert told == ["http://a.b", "https://a.b:8443", "app://obsidian.md", "localhost", "*"]
    for text in ("a.b", "a.b:80", "http://", "http://a.b/page", "http://a.b?c", "http://me@a.b", "http://[", "//a.b"):
        with pytest.raises(ValueError, match=r"no origin|Invalid"):
            named_origin(text)


def test_preflight_needs_neither_key_nor_model() -> None:
    app = gate(ready=False, api_keys=frozenset({"one"}), cors_origins=("*",))
    answer = ask(app, "OPTIONS", "/completions", headers={"Origin": "o"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["access-control-allow-origin"] == "o"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["access-control-allow-methods"] == "GET, POST, DELETE, OPTIONS"
    assert answer.headers["access-control-allow-headers"] == "*"
    refused = ask(gate(cors_origins=("localhost",)), "GET", "/", headers={"Origin": "http://evil.com"})
    assert "access-control-allow-origin" not in refused.headers


def test_an_error_is_told_across_origins_too() -> None:
    app = gate(api_keys=frozenset({"one"}), cors_origins=("http://a.b",))
    answer = ask(app, "POST", "/completions", headers={"Origin": "http://a.b"})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "http://a.b"


EVIL, HOST = {"Origin": "http://evil.com", "Content-Type": "text/plain"}, "http://test"


@pytest.mark.parametrize(
    ("headers", "options", "status"),
    [
        ({}, {}, 200),
        ({"Origin": HOST}, {}, 200),
        ({"Origin": "http://localhost:3000"}, {}, 200),
        (EVIL, {}, 403),
        ({"Origin": "null"}, {}, 403),
        ({"Origin": "http://evil.com:80", "Host": "evil.com:8080"}, {}, 403),
        ({"Origin": "https://ours.com", "Host": "ours.com"}, {}, 200),
        ({"Origin": "https://ours.com", "X-Forwarded-Host": "ours.com"}, {}, 200),
        ({"Origin": "https://ours.com", "X-Forwarded-Host": "ours.com, inner"}, {}, 200),
        ({"Origin": "https://ours.com", "Sec-Fetch-Site": "same-origin"}, {}, 200),
        ({"Origin": "https://ours.com", "Sec-Fetch-Site": "cross-site"}, {}, 403),
        (EVIL, {"cors_origins": ("*",)}, 200),
        (EVIL, {"cors_origins": ("http://evil.com",)}, 200),
        (EVIL | {"X-Api-Key": "one"}, {"api_keys": frozenset({"one"})}, 200),
        (EVIL, {"api_keys": frozenset({"one"})}, 401),
    ],
)
def test_pages_from_elsewhere_cannot_use_a_server_without_keys(
    headers: dict[str, str], options: dict[str, Any], status: int
) -> None:
    answer = ask(gate(**options), "POST", "/completion", headers=headers, content=b"{}")
    assert answer.status_code == status
    named = "access-control-allow-origin" in answer.headers
    assert named == ("localhost" in headers.get("Origin", "") or "cors_origins" in options)
    if status == 403:
        assert "--cors-origins" in answer.json()["error"]["message"]


def test_paths_are_mended_and_logged_as_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    app = Access(echo, Log())
    assert ask(app, "GET", "/v1//chat///x").json()["path"] == "/v1/chat/x"
    ask(app, "GET", "/a%0Ab%1B")
    ask(app, "GET", "/health")
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("GET /v1/chat/x 200 ")
    assert second.startswith("GET /a?b? 200 ")


def test_a_failure_is_logged_without_what_it_says(capfd: pytest.CaptureFixture[str]) -> None:
    ask(Access(Bodies(echo, lambda path: 9, 9.0), Log(as_json=True)), "POST", "/x", content=b"fail")
    failure, request = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert failure["text"].startswith("failure: RuntimeError in test_middleware.py")
    assert "secret" not in failure["text"]
    assert request["path"] == "/x"


def test_bodies_of_errors() -> None:
    assert json.loads(bytes(error_answer(server_error("x\ud800")).body)) == {
        "error": {"code": 500, "message": "x?", "type": "server_error"}
    }
