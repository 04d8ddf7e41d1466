"""How a process is told to end, and ends. Windows has SIGTERM by name alone: there Ctrl-Break is what one can send."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from powerinfer_cli.system import windows
from powerinfer_cli.system.which import WINDOWS

__all__ = [
    "APART",
    "ENDING",
    "KILLED",
    "LOST_PAGE",
    "OUT_OF_TIME",
    "TELLS_TO_END",
    "UNWINDING",
    "exit_later",
    "without_interrupts",
]


def _existing(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


ENDING = _existing("SIGTERM", "SIGINT", "SIGBREAK")
"""What ends a server in order."""
UNWINDING = _existing("SIGTERM", "SIGHUP", "SIGBREAK")
"""What ends a process with a terminal, besides Ctrl-C."""
TELLS_TO_END: int = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
"""What a child that runs `APART` is sent so that it ends in order."""
APART: dict[str, Any] = {"creationflags": 0x200} if WINDOWS else {"start_new_session": True}
"""Of a child: a Ctrl-C at the terminal is not meant for it. (0x200: CREATE_NEW_PROCESS_GROUP.)"""
OUT_OF_TIME: int | None = None if WINDOWS else -signal.SIGPROF
KILLED: int | None = None if WINDOWS else -signal.SIGKILL
"""A child's exit codes: its processor time was used up; somebody killed it. None where no code says so."""
LOST_PAGE: int | None = None if WINDOWS else signal.SIGBUS
"""What a thread gets that reads a mapped file where it was cut short. None: Windows lets nobody cut such a file."""


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Ctrl-C waits meanwhile; processes that are started never get it, for they inherit what is blocked.

    To block it is not enough: another thread, one of NumPy's, takes it then, and interrupts this one all the same. A
    process whose starting is interrupted finds nothing to read, and says so with a traceback. On Windows it is lost.
    """
    if WINDOWS:
        windows.ignore_interrupts(True)
        try:
            yield
        finally:
            windows.ignore_interrupts(False)
        return
    waiting: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: waiting.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, handler)
    if waiting:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def exit_later() -> Iterator[Callable[[float], None]]:
    """Within, what this gives ends the process so many seconds after it was called, with code 0, whatever other threads
    do; leaving calls that off. For the main thread.
    """
    with _timer() if WINDOWS else _alarm() as start:
        yield start


@contextmanager
def _alarm() -> Iterator[Callable[[float], None]]:
    def end(number: int, frame: FrameType | None) -> None:
        os._exit(0)

    def start(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before = signal.signal(signal.SIGALRM, end)
    try:
        yield start
    finally:
        start(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _timer() -> Iterator[Callable[[float], None]]:
    timers: list[threading.Timer] = []

    def start(seconds: float) -> None:
        timers.append(threading.Timer(seconds, os._exit, (0,)))
        timers[-1].daemon = True
        timers[-1].start()

    try:
        yield start
    finally:
        for timer in timers:
            timer.cancel()
