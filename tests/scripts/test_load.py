"""The scripts that load servers: their client against a small server of asyncio's, figures and verdicts by hand."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from scripts.bench.serve import parse
from scripts.bench.serve_cases import EXPERT_FIGURES, FIGURES, SHORT, first_token, result, streams
from scripts.clients.http import Answer, ask, events, unchunked
from scripts.soaking.behaviour import refused, same, streamed_chat
from scripts.soaking.outcome import Outcome, flat, problems

CHUNKED = b"5\r\nhello\r\n6;x=1\r\n world\r\n0\r\n\r\n"


async def served(answer: bytes, use: Callable[[int], Awaitable[object]]) -> tuple[object, list[bytes]]:
    """What `use(port)` gives beside a server that answers everything alike; and the requests that it got."""
    requests: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        requests.append(head + await reader.readexactly(length))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        return await use(server.sockets[0].getsockname()[1]), requests


def streamed(tokens: int) -> bytes:
    """A stream as llama-server's, in one chunk for each event."""
    parts = [{"content": "a", "stop": False}] * tokens + [{"content": "", "stop": True, "tokens_predicted": tokens}]
    chunks = [b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b"data: [DONE]\n\n"))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def test_chunks_are_put_together() -> None:
    assert unchunked(CHUNKED) == b"hello world"
    with pytest.raises(ValueError, match="not found"):
        unchunked(CHUNKED[:-7])


def test_an_answer_is_read_whole() -> None:
    found, (request,) = asyncio.run(served(streamed(3), lambda port: ask(port, "/completion", {"prompt": "x"})))
    assert isinstance(found, Answer)
    assert (found.status, len(events(found.body))) == (200, 5)
    assert 0 < found.first <= found.last
    assert request.startswith(b"POST /completion HTTP/1.1\r\n")
    assert request.endswith(b'{"prompt": "x"}')


def test_streams_are_counted_by_what_the_server_says() -> None:
    speed, requests = asyncio.run(served(streamed(6), lambda port: streams(port, 3, 6, 1, 400)))
    assert isinstance(speed, float)
    assert speed > 0
    prompts = [json.loads(request.partition(b"\r\n\r\n")[2])["prompt"] for request in requests]
    assert len({tuple(prompt) for prompt in prompts}) == 3
    assert all(len(prompt) == SHORT and max(prompt) < 400 for prompt in prompts)
    with pytest.raises(RuntimeError, match="6 tokens came, not 1 times 7"):
        asyncio.run(served(streamed(6), lambda port: streams(port, 1, 7, 1, 400)))


def test_the_first_token_of_a_cached_prompt_is_asked_for_once_more() -> None:
    wait, requests = asyncio.run(served(streamed(2), lambda port: first_token(port, 3, 1, 400)))
    assert isinstance(wait, float)
    assert len(requests) == 4
    assert len(set(requests)) == 1


def test_figures_are_ratios_of_medians_and_milliseconds_stand_alone() -> None:
    samples = {"ours, 1 stream": [94, 96, 95], "bench": [100, 99, 101], "ours, first token": [149, 200, 100]}
    beside_bench, first = (found for figure in FIGURES if (found := result(figure, samples)) is not None)
    assert (beside_bench.ours, beside_bench.other, beside_bench.ratio, beside_bench.met) == (95, 100, 0.95, True)
    assert (first.ours, first.other, first.met) == (149, None, True)
    wide = {"ours, 4 streams": [179], "theirs, 4 streams": [100]}
    (four,) = filter(None, (result(figure, wide) for figure in FIGURES))
    assert not four.met
    targets = {figure.ours: figure.target for figure in FIGURES}
    assert (targets["ours, 4 streams"], targets["ours, 8 streams"], targets["ours, first token"]) == (1.8, 1.8, 150)
    targets = {figure.ours: figure.target for figure in EXPERT_FIGURES}
    assert (targets["ours, 4 streams"], targets["ours, 8 streams"], targets["ours, first token"]) == (1.5, 1.5, 150)


def test_no_repetitions_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--rounds", "0"])
    assert "--rounds" in capsys.readouterr().err


def test_a_soak_tells_what_went_wrong() -> None:
    outcome = Outcome()
    outcome.count("chat", "")
    outcome.memory = [(float(second), 100 if second < 5 else 200) for second in range(30)]
    assert problems(outcome, 5, 0.02) == []
    outcome.memory += [(float(second), 205) for second in range(30, 60)]
    outcome.count("chat", "another text")
    outcome.count("chat", "a third one")
    outcome.busy_slots, outcome.exit_code = 1, -9
    assert flat(outcome.memory, 5) == (200, 205)
    assert problems(outcome, 5, 0.02) == [
        "chat: 2 of 3 wrong, first: another text",
        "memory grew by 2.5%, more than 2.0%",
        "1 slots are still busy, and nobody is there",
        "the server ended with code -9 on SIGTERM",
    ]


def test_answers_are_judged() -> None:
    error = Answer(400, b'{"error": {"code": 400}}', 0, 0)
    assert refused(error, 400) == ""
    assert "status 400, not 404" in refused(error, 404)
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in ("a", "b")] + [{"choices": []}]
    chat = Answer(200, b"\n\n".join(b"data: " + json.dumps(chunk).encode() for chunk in chunks), 0, 0)
    assert same(chat, "ab", streamed_chat) == ""
    assert "another text" in same(chat, "ac", streamed_chat)
    assert "status 400" in same(error, "ab", streamed_chat)
