"""Signals for tests that were themselves started in the background or by nohup, where they are ignored."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ctrl_c_counts() -> Iterator[None]:
    """Meanwhile Ctrl-C interrupts this process, and for good those that are started: what is ignored is inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def hangup_counts() -> Iterator[None]:
    """Who is started meanwhile does not ignore that the terminal is gone."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
