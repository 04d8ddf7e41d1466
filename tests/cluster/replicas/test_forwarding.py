"""What a client gets of replicas that die: all of an answer by another one, or an event that says that it ends."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from starlette.types import Message

from powerinfer_cli.cluster.replicas.forwarding import Failed, Lost, forward, has_token
from powerinfer_cli.cluster.replicas.questions import PIECE, Head, Part, Question
from powerinfer_cli.serving.errors import APIError, unavailable
from powerinfer_cli.serving.http.logs import Log

STREAM = ((b"content-type", b"text/event-stream; charset=utf-8"),)
WHOLE = ((b"content-type", b"application/json"),)
OPENING = b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n'
HELLO, BYE = (
    b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"!"}}]}\n\n',
)
DONE = b"data: [DONE]\n\n"

Script = Sequence[Part | Exception]


def told(*scripts: Script, path: str = "/v1/chat/completions") -> tuple[int, bytes, int]:
    """Status, body, and how many replicas were asked: each does what its script says."""
    messages: list[Message] = []
    asked = 0

    async def ask(question: Question) -> AsyncGenerator[Part, None]:
        nonlocal asked
        asked += 1
        for part in scripts[asked - 1]:
            if isinstance(part, Exception):
                raise part
            yield part

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        messages.append(message)

    asyncio.run(forward(ask, Question("POST", path), receive, send, Log(quiet=True)))
    assert not messages[-1].get("more_body", False)
    assert max(len(message.get("body", b"")) for message in messages) <= PIECE
    assert sum(message["type"] == "http.response.start" for message in messages) == 1
    body: Any = b"".join(message.get("body", b"") for message in messages)
    return messages[0]["status"], body, asked


def head(headers: Any, name: str = "a", status: int = 200) -> Head:
    return Head(status, headers, name)


def test_a_stream_passes_as_it_is() -> None:
    script = [Part(OPENING + HELLO, head(STREAM)), Part(BYE), Part(DONE, last=True)]
    assert told(script) == (200, OPENING + HELLO + BYE + DONE, 1)


def test_before_a_token_another_replica_is_asked() -> None:
    """Also where the client has been told that it goes on."""
    good = [Part(OPENING + HELLO, head(STREAM, "b")), Part(DONE, last=True)]
    assert told([Lost("dead")], good) == (200, OPENING + HELLO + DONE, 2)
    assert told([Part(b":\n\n", head(STREAM)), Lost("dead")], good) == (200, b":\n\n" + OPENING + HELLO + DONE, 2)
    assert told([], good)[2] == 2, "an answer that just ends is none"


def test_after_a_token_the_stream_ends_with_an_error() -> None:
    status, body, asked = told([Part(OPENING + HELLO, head(STREAM)), Lost("dead")], [Part(DONE, last=True)])
    assert (status, asked) == (200, 1)
    assert body.startswith(OPENING + HELLO + b"data: ")
    error = json.loads(body.split(b"\n\n")[-2].removeprefix(b"data: "))["error"]
    assert error["code"] == 500
    assert "a replica has died" in error["message"]
    assert DONE not in body


def test_an_answer_that_is_cut_off_is_not_taken_for_whole() -> None:
    assert b"a replica has died" in told([Part(OPENING + HELLO, head(STREAM))])[1]


@pytest.mark.parametrize(("path", "begin"), [("/v1/messages", b"event: error"), ("/v1/responses", b"event: error")])
def test_errors_are_worded_as_the_protocol_has_them(path: str, begin: bytes) -> None:
    body = told([Part(HELLO, head(STREAM)), Lost("dead")], path=path)[1]
    assert body.removeprefix(HELLO).startswith(begin)


def test_what_is_answered_whole_is_asked_for_anew() -> None:
    """Nothing of it was sent."""
    good = [Part(b'{"a":', head(WHOLE, "b")), Part(b"1}", last=True)]
    assert told([Part(b'{"a":', head(WHOLE)), Lost("dead")], good) == (200, b'{"a":1}', 2)
    assert told([Part(b'{"error":1}', head(WHOLE, status=400), last=True)]) == (400, b'{"error":1}', 1)


def test_what_is_answered_whole_is_sent_in_pieces() -> None:
    text = bytes(range(256)) * (PIECE // 100)
    assert told([Part(text, head(WHOLE)), Part(b"!", last=True)]) == (200, text + b"!", 1)


def test_who_fails_is_not_asked_again() -> None:
    status, body, asked = told([Failed("KeyError")], [])
    assert (status, asked) == (500, 1)
    assert b"KeyError" not in body


def test_no_more_than_so_many_are_asked() -> None:
    status, body, asked = told(*[[Lost("dead")]] * 20)
    assert (status, asked) == (503, 8)
    assert json.loads(body)["error"]["type"] == "unavailable_error"


def test_nobody_may_be_asked() -> None:
    error: APIError = unavailable("too many requests wait already")
    assert told([error])[0] == 503


def test_what_a_token_is() -> None:
    progress = b'data: {"choices":[{"delta":{}}],"prompt_progress":{"total":5}}\n\n'
    assert not has_token(OPENING + progress + b":\n\n")
    assert has_token(OPENING + HELLO)
    assert has_token(b'data: {"content":"\\"content\\":null"}\n\n')


@pytest.mark.parametrize("begun", [True, False])
def test_who_is_under_way_when_the_time_is_over_is_told_so(begun: bool) -> None:
    messages: list[Message] = []
    over = asyncio.Event()

    async def ask(question: Question) -> AsyncGenerator[Part, None]:
        if begun:
            yield Part(OPENING + HELLO, head(STREAM))  # and sent, once the next is asked for
        over.set()
        await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        messages.append(message)

    async def ended() -> None:
        question = Question("POST", "/v1/chat/completions")
        await asyncio.wait_for(forward(ask, question, receive, send, Log(quiet=True), over), 10)

    asyncio.run(ended())
    assert messages[0]["status"] == (200 if begun else 503)
    assert not messages[-1].get("more_body", False)
    error = json.loads(messages[-1]["body"].removeprefix(b"data: ").strip())["error"]
    assert error["code"] == 503
    assert "stopping" in error["message"]
