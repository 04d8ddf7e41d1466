"""Work that may need a grammar: at once where all grammars are known, else in line, one at a time.

A grammar that is not known takes up to a second of a core and a hundred megabytes: many clients with new ones would
slow the others down, and fill the memory, were they served side by side.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from powerinfer_cli.sampling.grammars.grammar import NotKeptError, only_kept
from powerinfer_cli.serving.errors import unavailable
from powerinfer_cli.serving.threads import in_thread
from powerinfer_cli.system.memory import resident_memory, return_memory

__all__ = ["with_grammars"]

T = TypeVar("T")

_MOST_WAITING = 64
_WORTH = 4 << 20  # bytes, to be returned at once


class _Line:
    """Of those whose grammars must be compiled."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "grammars")
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Raises APIError 503. Whoever is cancelled while waiting leaves the line."""
        if self._waiting >= _MOST_WAITING:
            raise unavailable("too many requests wait for their grammars to be compiled")
        self._waiting += 1
        try:
            context = contextvars.copy_context()
            return await asyncio.get_running_loop().run_in_executor(self._thread, _then_trim, context, work)
        finally:
            self._waiting -= 1


def _then_trim(context: contextvars.Context, work: Callable[[], T]) -> T:
    """What a large grammar took goes back to the system."""
    before = resident_memory() or 0
    try:
        return context.run(work)
    finally:
        if (resident_memory() or 0) > before + _WORTH:
            return_memory()


_line = _Line()


async def with_grammars(work: Callable[[], T]) -> T:
    """What work() returns, away from the event loop. It may be called twice, first with known grammars only."""

    def first() -> T:
        only_kept.set(True)  # in the thread's own context
        return work()

    try:
        return await in_thread(first)
    except NotKeptError:
        return await _line.run(work)
