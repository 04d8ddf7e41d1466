"""How another thread ends what is being rendered."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .limits import Cause, RenderingError

__all__ = ["Cancellation", "cancellation"]


class Cancellation:
    """Of all that is rendered where this is the context's `cancellation`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end: Callable[[], None] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """What is being rendered fails soon, and what would be later at once. Any thread."""
        with self._lock:
            self._cancelled = True
            if self._end is not None:
                self._end()

    @contextmanager
    def ending(self, end: Callable[[], None]) -> Iterator[None]:
        """Within, `cancel` calls `end`. Raises RenderingError if it was called before."""
        with self._lock:
            if self._cancelled:
                raise RenderingError("nobody waits for it any more", Cause.PROCESS)
            self._end = end
        try:
            yield
        finally:
            with self._lock:
                self._end = None


cancellation: ContextVar[Cancellation | None] = ContextVar("cancellation", default=None)
