"""What is half-written goes away when a process is told to end, too."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from powerinfer_cli.system.signals import UNWINDING

__all__ = ["tidy_ending"]


@contextmanager
def tidy_ending() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP unwind what runs, as Ctrl-C does; the exit code is 128 and the signal's number.

    For the main thread. A signal that is ignored (`nohup`) stays ignored.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in UNWINDING}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is signal.SIG_DFL:
                signal.signal(number, handler)
