"""Bodies of requests: how large they may be, how much they may say, and what they may hold together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from powerinfer_cli.serving.http import reading
from powerinfer_cli.serving.http.reading import MOST_HELD, MOST_PARTS, Bodies
from powerinfer_cli.serving.threads import LARGE
from tests.serving.http.test_middleware import ask, echo


def bodies(body_bytes: int = 1 << 20, timeout_s: float = 9.0) -> ASGIApp:
    return Bodies(echo, lambda path: body_bytes, timeout_s)


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


def test_a_body_may_say_no_more_than_is_read_in_a_moment() -> None:
    """Sixty megabytes of [],[] once held everybody for 16 seconds, and two gigabytes."""
    most = bodies(body_bytes=60 << 20)
    fits = b"[" + b"1," * (MOST_PARTS - 1) + b"1]"
    assert ask(most, "POST", "/x", content=fits).status_code == 200
    answer = ask(most, "POST", "/x", content=b"[" + fits + b"]")
    assert answer.status_code == 413
    assert f"{MOST_PARTS} values" in answer.json()["error"]["message"]
    text = b'"' + b"[1],{:" * MOST_PARTS + b'"'
    assert ask(most, "POST", "/x", content=text).status_code == 200


def test_large_bodies_may_hold_no_more_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_HELD", 5 * LARGE)
    arrived, leave = asyncio.Semaphore(0), asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        arrived.release()
        await leave.wait()
        await echo({**scope, "method": "GET"}, receive, send)

    async def run() -> list[int]:
        app = Bodies(waiting, lambda path: 1 << 30, 9.0)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            large = [asyncio.create_task(client.post("/x", content=b"a" * (LARGE + 1))) for _ in range(2)]
            small = asyncio.create_task(client.post("/x", content=b"a" * LARGE))
            for _ in range(3):
                await arrived.acquire()
            refused = await client.post("/x", content=b"a" * (LARGE + 1))
            leave.set()
            served = await asyncio.gather(*large, small)
            again = await client.post("/x", content=b"a" * (LARGE + 1))
            return [one.status_code for one in (refused, *served, again)]

    assert asyncio.run(run()) == [503, 200, 200, 200, 200]
    assert MOST_HELD > 2 * (4 << 20) + reading.PART_BYTES * MOST_PARTS  # or there would be requests that never fit


def test_a_body_that_does_not_come_is_refused() -> None:
    answer = ask(bodies(timeout_s=0.05), "POST", "/x", content=parts(b"a", b"b", every_s=0.04))
    assert answer.status_code == 408
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_every_body_is_json_and_heads_are_gets() -> None:
    form = ask(bodies(), "POST", "/x", data={"a": "b"}).json()
    assert form["headers"]["content-type"] == "application/json"
    lengths = [ask(bodies(), method, "/x").headers["content-length"] for method in ("GET", "HEAD")]
    assert lengths[0] == lengths[1]
