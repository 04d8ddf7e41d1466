"""What a replica's server sends, part by part."""

import asyncio
from collections.abc import Callable

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from powerinfer_cli.cluster.replicas.questions import PIECE, Head, Part, Question
from powerinfer_cli.cluster.replicas.replica import answered
from powerinfer_cli.serving.http.protocol import spelled

Step = Callable[[], object]


def application(*steps: bytes | float | Exception) -> ASGIApp:
    """Sends bytes, and sleeps between them; then ends."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == b"{}"
        await send({"type": "http.response.start", "status": 200, "headers": [(spelled(b"content-type"), b"a/b")]})
        for step in steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                await send({"type": "http.response.body", "body": step, "more_body": True})
        await send({"type": "http.response.body"})

    return app


def parts(app: ASGIApp, pace_s: float, most: int = 100, taken: asyncio.Event | None = None) -> list[Part]:
    """taken: set for each part."""

    async def collected() -> list[Part]:
        found = []
        stream = answered(app, Question("POST", "/", body=b"{}"), "me", pace_s)
        async for part in stream:
            found.append(part)
            if taken is not None:
                taken.set()
            if len(found) == most:
                break
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
        return found

    return asyncio.run(collected())


def test_names_of_headers_are_what_they_look_like() -> None:
    (part,) = parts(application(), 0.0)
    assert part == Part(b"", Head(200, ((b"content-type", b"a/b"),), "me"), last=True)


def test_the_first_part_waits_for_nothing_and_the_next_ones_are_collected() -> None:
    found = parts(application(b"1", 0.0, b"2", 0.0, b"3", 0.0), 60.0)
    assert [part.body for part in found] == [b"1", b"23"], "and the end is not waited for"
    assert [part.last for part in found] == [False, True]


def test_slow_parts_come_one_by_one() -> None:
    taken = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for body in (b"1", b"2", b"3"):
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.wait_for(taken.wait(), 20)
            taken.clear()
        await send({"type": "http.response.body"})

    assert [part.body for part in parts(app, 0.0, taken=taken)] == [b"1", b"2", b"3", b""]


def test_large_answers_come_in_pieces() -> None:
    """Of what is sent at once, too, and the beginning is told once."""
    body = bytes(range(256)) * (PIECE // 100)
    found = parts(application(body), 0.0)
    assert b"".join(part.body for part in found) == body
    assert max(len(part.body) for part in found) == PIECE
    assert [part.head is not None for part in found] == [True] + [False] * (len(found) - 1)
    assert [part.last for part in found] == [False] * (len(found) - 1) + [True]


def test_what_the_application_raises_is_raised() -> None:
    with pytest.raises(KeyError):
        parts(application(b"1", KeyError("x")), 0.0)


def test_who_goes_ends_the_application() -> None:
    ended = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
            await asyncio.sleep(60)
        finally:
            ended.append((await receive())["type"])

    assert len(parts(app, 0.0, most=1)) == 1
    assert ended == ["http.disconnect"]
