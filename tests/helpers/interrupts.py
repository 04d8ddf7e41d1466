"""Ctrl-C for tests that were themselves started in the background, where a shell has them ignore it."""

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
