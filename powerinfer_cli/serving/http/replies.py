"""Several tasks of one request: all their events in one stream, and no work for a client that has gone."""

import asyncio
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from starlette.types import Receive

from powerinfer_cli.serving.errors import APIError, invalid_request
from powerinfer_cli.serving.tasks import (
    CompletionTask,
    Event,
    Finished,
    Stop,
    Task,
    TextPiece,
    Timings,
    TokenChances,
    Vectors,
)

__all__ = ["MOST_CHANCES", "Opener", "Outcome", "Replies", "collect", "collect_by_turns", "while_connected"]

T = TypeVar("T")
MOST_CHANCES = 1 << 20
"""Probabilities in one answer that is told whole, some dozen bytes each until it is written."""


class Opener(Protocol):
    """`Service`, as far as tasks are concerned."""

    def open(self, tasks: Sequence[Task]) -> Any:
        """Their Reply."""


class Answering(Protocol):
    """`Reply`, as far as its events are concerned."""

    def __aiter__(self) -> AsyncIterator[tuple[int, Event]]: ...

    def waiting(self) -> list[tuple[int, Event]]:
        """Those that have come already."""


class Replies:
    """The events of tasks as (index of the task, event), as they come; used as `async with`.

    Entering submits all tasks, or none where one is refused (APIError); leaving cancels what still runs. A task that
    fails ends the iteration with its APIError. Tasks without tokens end at once.
    """

    def __init__(self, service: Opener, tasks: Sequence[Task]) -> None:
        empty = [isinstance(task, CompletionTask) and not task.prompt for task in tasks]
        self._nothing: list[tuple[int, Event]] = [(i, _NOTHING) for i, none in enumerate(empty) if none]
        self._places = [i for i, none in enumerate(empty) if not none]
        self._service, self._tasks = service, [tasks[i] for i in self._places]
        self._stack = AsyncExitStack()
        self._reply: Answering | None = None

    async def __aenter__(self) -> "Replies":
        if self._tasks:
            self._reply = await self._stack.enter_async_context(self._service.open(self._tasks))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def batches(self) -> AsyncGenerator[list[tuple[int, Event]], None]:
        """What has come, one event or several, so that who is slow catches up. Iterate once, and close it
        (contextlib.aclosing).
        """
        if self._nothing:
            yield self._nothing
        if self._reply is None:
            return
        async for first in self._reply:
            come = [first, *self._reply.waiting()]
            yield [(self._places[place], event) for place, event in come]


# What llama-server makes of a prompt without tokens: nothing, and no error.
_NOTHING = Finished(
    stop=Stop.LIMIT,
    stopping_word="",
    truncated=False,
    timings=Timings(cache_n=0, prompt_n=0, prompt_ms=0.0, predicted_n=0, predicted_ms=0.0),
    id_slot=-1,
    n_prompt=0,
    tokens_cached=0,
    seed=-1,
)


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes: APIError 499 then, which nobody will read.

    receive: the request's, whose body has been read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(receive))
    for one in (task, gone):
        one.add_done_callback(_looked_at)
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise APIError(499, "client_closed_request", "the client has gone")
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _looked_at(future: "asyncio.Future[Any]") -> None:
    """asyncio would print a failure that nobody waits for, with words that may be a client's."""
    if not future.cancelled():
        future.exception()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass
class Outcome:
    """All that one task told. vectors: of an embedding, [T, n_embd]."""

    finished: Finished | None = None
    vectors: Vectors | None = None
    tokens: "array[int]" = field(default_factory=lambda: array("i"))
    chances: list[TokenChances] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def take(self, event: Event) -> None:
        """One event more."""
        if isinstance(event, TextPiece):
            self.pieces.append(event.text)
            self.tokens.extend(event.tokens)
            self.chances += event.chances
        elif isinstance(event, Finished):
            self.finished = event
        elif isinstance(event, Vectors):
            self.vectors = event


async def collect_by_turns(service: Opener, tasks: Sequence[Task], room: int) -> list[Outcome]:
    """`collect`, half as many at a time as there is room for, so that there is some for others. Raises APIError."""
    at_once = max(1, room // 2)
    parts = [tasks[at : at + at_once] for at in range(0, len(tasks), at_once)] if len(tasks) > room else [tasks]
    return [outcome for part in parts for outcome in await collect(service, part)]


async def collect(service: Opener, tasks: Sequence[Task]) -> list[Outcome]:
    """Have all tasks done; whoever is cancelled while waiting cancels them. Raises APIError."""
    outcomes, n_chances = [Outcome() for _ in tasks], 0
    async with Replies(service, tasks) as replies, aclosing(replies.batches()) as batches:
        async for batch in batches:
            for index, event in batch:
                outcomes[index].take(event)
                if isinstance(event, TextPiece):
                    n_chances += sum(len(one.top) for one in event.chances)
            if n_chances > MOST_CHANCES:
                raise invalid_request(
                    f"more than {MOST_CHANCES} probabilities are too many for one answer: "
                    "limit the tokens to write, ask for fewer, or stream them"
                )
    return outcomes
