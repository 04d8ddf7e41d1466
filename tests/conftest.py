"""What every test leaves as it found it, and what none of them has to look through."""

import gc
import signal
from collections.abc import Iterator

import pytest

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


def pytest_collection_finish() -> None:
    """Modules and tests live to the end: to look through them for cycles, as whoever closes a model does, takes half a
    second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Else another test, whichever runs next in this process, is the one that fails."""
    before = [signal.getsignal(number) for number in _SIGNALS]
    yield
    assert [signal.getsignal(number) for number in _SIGNALS] == before
