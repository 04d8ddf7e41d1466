import asyncio
import gc
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

import pytest

from powerinfer_cli.serving.errors import APIError, server_error
from powerinfer_cli.serving.http.replies import collect, while_connected
from powerinfer_cli.serving.http.sse import DONE, event_stream, sse
from powerinfer_cli.serving.tasks import CompletionTask, Event, Failed, Likeliest, Stop, TextPiece, TokenChances
from tests.serving.fake_service import FakeService, finished, piece, timings


class Client:
    """The other end of an ASGI response: what it got, and when it goes."""

    def __init__(self, *, goes: bool = False) -> None:
        self.got: list[dict[str, Any]] = []
        self.goes = goes

    async def receive(self) -> dict[str, Any]:
        if not self.goes:
            await asyncio.Event().wait()
        await asyncio.sleep(0.02)
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.got.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.got)


def write(index: int, event: Event) -> bytes:
    return sse({"i": index, "text": event.text}) if isinstance(event, TextPiece) else b""


def run(client: Client, scripts: Sequence[Iterable[Event | None]], **options: Any) -> tuple[FakeService, list[bytes]]:
    """Stream tasks, one for each script, to `client`."""
    waiting = iter(scripts)
    service = FakeService(lambda task: next(waiting))

    async def main() -> None:
        tasks = [CompletionTask((1,)) for _ in scripts]
        response = await event_stream(client.receive, service, tasks, write, end=lambda: DONE, **options)
        await response({"type": "http"}, client.receive, client.send)

    asyncio.run(main())
    return service, [part + b"\n\n" for part in client.body.split(b"\n\n")[:-1]]


def test_an_event_in_bytes() -> None:
    assert sse({"a": "é\n"}) == 'data: {"a":"é\\n"}\n\n'.encode()
    assert sse({}, "ping") == b"event: ping\ndata: {}\n\n"
    assert sse("\ud800") == b'data: "?"\n\n'


def test_events_in_their_order_and_the_end() -> None:
    client = Client()
    service, parts = run(client, [[piece("a"), piece("b"), finished()]])
    assert parts == [sse({"i": 0, "text": "a"}), sse({"i": 0, "text": "b"}), DONE]
    assert dict(client.got[0]["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert client.got[-1]["more_body"] is False
    assert service.replies[0].left


def test_several_tasks_by_their_index() -> None:
    _, parts = run(Client(), [[piece("a"), piece("b"), finished()], [piece("c"), finished()]])
    assert sorted(parts[:-1]) == [sse({"i": i, "text": text}) for i, text in [(0, "a"), (0, "b"), (1, "c")]]
    assert parts[-1] == DONE


def test_an_error_before_the_first_event_is_raised() -> None:
    with pytest.raises(APIError, match="broken"):
        run(Client(), [[Failed(server_error("broken"))]])


def test_an_error_later_is_an_event_and_the_last() -> None:
    service, parts = run(Client(), [[piece("a"), None], [piece("c"), Failed(server_error("broken"))]])
    assert parts[-1] == sse(server_error("broken").body())
    assert DONE not in parts
    assert all(reply.left for reply in service.replies)


def test_where_one_task_is_refused_none_begins() -> None:
    service = FakeService(lambda task: [None], most=2)
    with pytest.raises(APIError, match="too many"):
        asyncio.run(collect(service, [CompletionTask((1,))] * 3))
    assert (service.tasks, service.replies) == ([], [])


@pytest.mark.parametrize("script", [[None], [piece("a"), None]])
def test_a_client_that_goes_leaves_its_tasks(script: list[Event | None]) -> None:
    client = Client(goes=True)
    service = FakeService(lambda task: script)

    async def main() -> None:
        response = await event_stream(client.receive, service, [CompletionTask((1,))], write)
        await response({"type": "http"}, client.receive, client.send)

    if script[0] is None:  # before the headers
        with pytest.raises(APIError) as caught:
            asyncio.run(main())
        assert caught.value.status == 499
    else:
        asyncio.run(main())
    assert service.replies[0].left


async def until_gone(work: Awaitable[Any]) -> Any:
    return await while_connected(Client(goes=True).receive, work)


def test_a_client_that_goes_while_all_is_collected() -> None:
    service = FakeService(lambda task: [piece("a"), None])
    with pytest.raises(APIError, match="gone"):
        asyncio.run(until_gone(collect(service, [CompletionTask((1,))] * 2)))
    assert [reply.left for reply in service.replies] == [True]


def test_a_failure_after_the_client_went_is_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("what a client wrote")

    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        with pytest.raises(APIError, match="gone"):
            await until_gone(work())
        gc.collect()
        assert told == []

    asyncio.run(main())
    assert "what a client wrote" not in caplog.text


def test_silence_is_broken_by_comments() -> None:
    _, parts = run(Client(goes=True), [[piece("a"), None]], ping_s=0.005)
    assert parts[0] == sse({"i": 0, "text": "a"})
    assert len(parts) > 1
    assert set(parts[1:]) == {b":\n\n"}


def test_comments_do_not_wait_for_the_first_event() -> None:
    _, parts = run(Client(goes=True), [[None]], ping_s=0.005)
    assert len(parts) > 1
    assert set(parts) == {b":\n\n"}


def test_a_prompt_without_tokens_gives_nothing() -> None:
    service = FakeService(lambda task: [finished()])
    (outcome,) = asyncio.run(collect(service, [CompletionTask(())]))
    assert (outcome.text, list(outcome.tokens), service.tasks) == ("", [], [])
    assert outcome.finished is not None
    assert outcome.finished.stop == Stop.LIMIT


def test_everything_is_collected_by_task() -> None:
    scripts = iter([[piece("a", 5), piece("b", 6, 7), finished()], [piece("c", 8), finished(Stop.WORD)]])
    service = FakeService(lambda task: next(scripts))
    first, second = asyncio.run(collect(service, [CompletionTask((1,))] * 2))
    assert (first.text, list(first.tokens), second.text, list(second.tokens)) == ("ab", [5, 6, 7], "c", [8])
    assert second.finished is not None
    assert second.finished.stop == Stop.WORD


def test_an_answer_that_holds_too_many_probabilities_ends() -> None:
    top = Likeliest(range(1 << 16), [0.0] * (1 << 16), lambda token: b"x")
    many = TextPiece("x", (1,), (TokenChances(top[0], top),), timings())
    service = FakeService(lambda task: [many] * 17)
    with pytest.raises(APIError, match="1048576 probabilities") as caught:
        asyncio.run(collect(service, [CompletionTask((1,))]))
    assert caught.value.status == 400
    assert service.replies[0].left
