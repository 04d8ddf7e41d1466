"""Events on their way from the engine's thread to an answer."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import pytest

from powerinfer_cli.serving.errors import APIError, server_error
from powerinfer_cli.serving.http.replies import Replies
from powerinfer_cli.serving.service import Inbox, Reply
from powerinfer_cli.serving.tasks import (
    CompletionTask,
    Event,
    Failed,
    Likeliest,
    Stop,
    Task,
    TextPiece,
    TokenChance,
    TokenChances,
)
from tests.serving.fake_service import finished, piece, timings

TASK = CompletionTask((1, 2))


class Thread:
    """An engine's thread of which nothing comes but what a test tells."""

    def submit(self, tasks: Sequence[Task], emit: Callable[[int, Sequence[Event]], None]) -> range:
        return range(7, 7 + len(tasks))

    def cancel(self, ids: Iterable[int]) -> None:
        assert next(iter(ids)) == 7


class Desk:
    """A Service: a Reply whose first task tells `events` at once."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def open(self, tasks: Sequence[Task]) -> Reply:
        reply = Reply(Thread(), Inbox(asyncio.get_running_loop()), tasks)
        reply.take(0, self._events)
        return reply


async def told(events: list[Event]) -> list[list[tuple[int, Event]]]:
    async with Replies(Desk(events), [TASK]) as replies:
        return [batch async for batch in replies.batches()]


def test_what_has_come_goes_together() -> None:
    events = [piece("a"), piece("b"), finished(Stop.LIMIT, 2)]
    assert asyncio.run(told(events)) == [[(0, event) for event in events]]


def test_what_came_before_a_failure_is_told() -> None:
    async def main() -> None:
        async with Replies(Desk([piece("a"), piece("b"), Failed(server_error("broken"))]), [TASK]) as replies:
            batches = replies.batches()
            assert [event.text for _, event in await anext(batches)] == ["a", "b"]  # type: ignore[union-attr]  # pieces
            with pytest.raises(APIError, match="broken"):
                await anext(batches)

    asyncio.run(main())


def test_a_failure_ends_the_others() -> None:
    cancelled: list[int] = []

    class Watched(Thread):
        def cancel(self, ids: Iterable[int]) -> None:
            cancelled.extend(ids)

    async def main() -> None:
        reply = Reply(Watched(), Inbox(asyncio.get_running_loop()), [TASK, TASK])
        reply.take(1, [piece("a")])
        reply.take(0, [Failed(server_error("broken"))])
        assert cancelled == [7, 8]  # before anybody has looked
        reply.take(1, [piece("b")])
        assert reply.waiting() == [(1, piece("a"))]
        with pytest.raises(APIError, match="broken"):
            await anext(reply)
        with pytest.raises(StopAsyncIteration):
            await anext(reply)

    asyncio.run(main())


def last(reply: Reply) -> object:
    return reply._events[-1][1] if reply._events else None


@pytest.mark.parametrize(("n_probs", "most"), [(0, 1 << 16), (20, 1 << 14)])
def test_events_that_nobody_reads_are_no_more_than_memory_holds(n_probs: int, most: int) -> None:
    top = Likeliest(range(n_probs), [0.0] * n_probs, lambda token: b"x")
    chances = (TokenChances(TokenChance(1, b"x", 0.0), top),) if n_probs else ()
    event = TextPiece("x", (1,), chances, timings())

    async def main() -> None:
        reply = Reply(Thread(), Inbox(asyncio.get_running_loop()), [TASK, TASK])
        n = 0
        while n < 2 * most and not isinstance(last(reply), Failed):
            reply.take(n % 2, [event])
            n += 1
            if n % 1000 == 0 and n < most // 2:
                assert len(reply.waiting()) == 1000  # whoever reads is never cut off
        assert n < most + 1000 + most // 2
        reply.waiting()
        with pytest.raises(APIError, match="does not read"):
            await anext(reply)

    asyncio.run(main())
