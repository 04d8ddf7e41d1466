"""Ctrl-C as a request that is looked at between tokens, so that the engine is never left half-way."""

import signal
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupt", "Interruption"]


class Interruption(Exception):
    """Raised between two batches of a prompt after Ctrl-C."""


class Interrupt:
    """While entered, the first Ctrl-C sets `requested`; a second one ends the process as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> "Interrupt":
        self.requested = False
        self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        if self.requested:
            raise Interruption

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
