"""Events on their way from the engine's thread to an answer."""

import asyncio

import pytest

from powerinfer_cli.serving.errors import APIError, server_error
from powerinfer_cli.serving.http.replies import Replies
from powerinfer_cli.serving.service import Inbox, Reply
from powerinfer_cli.serving.tasks import CompletionTask, Emit, Event, Failed, Stop, Task
from tests.serving.fake_service import finished, piece

TASK = CompletionTask((1, 2))


class Thread:
    """An engine's thread of which nothing comes but what a test tells."""

    def submit(self, task: Task, emit: Emit) -> int:
        return 7

    def cancel(self, task_id: int) -> None:
        assert task_id == 7


class Desk:
    """A Service: each task's Reply, which is told `events` at once."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def open(self, task: Task) -> Reply:
        reply = Reply(Thread(), Inbox(asyncio.get_running_loop()), task)
        reply.take(self._events)
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


def test_nobody_waits_for_what_has_failed_unforeseen() -> None:
    class Broken(Desk):
        def open(self, task: Task) -> Reply:
            reply = super().open(task)
            reply.__class__ = type("Failing", (Reply,), {"__anext__": broken})
            return reply

    async def broken(reply: Reply) -> Event:
        raise KeyError("unforeseen")

    async def main() -> None:
        async with Replies(Broken([piece("a")]), [TASK, TASK]) as replies:
            with pytest.raises(KeyError, match="unforeseen"):
                await asyncio.wait_for(anext(replies.batches()), 5)

    asyncio.run(main())
