"""What every test leaves as it found it."""

import signal
from collections.abc import Iterator

import pytest

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Else another test, whichever runs next in this process, is the one that fails."""
    before = [signal.getsignal(number) for number in _SIGNALS]
    yield
    assert [signal.getsignal(number) for number in _SIGNALS] == before
