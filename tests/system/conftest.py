"""Other systems than Linux, each test gives them the functions that it needs."""

from types import SimpleNamespace

import pytest

from powerinfer_cli.system import (
    consoles,
    cores,
    cpu,
    drivers,
    files,
    limits,
    macos,
    memory,
    processes,
    signals,
    sockets,
    windows,
)


@pytest.fixture
def kernel32(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A Windows: each test gives it the functions that it needs."""
    library = SimpleNamespace(GetCurrentProcess=lambda: -1, GetCurrentThread=lambda: -2, closed=[])
    library.CloseHandle = lambda handle: library.closed.append(handle.value)
    library.OpenProcess = lambda rights, inherit, process: 77 if process == 5 else None
    monkeypatch.setattr(windows, "kernel32", lambda: library)
    for module in (consoles, cores, cpu, drivers, files, limits, memory, processes, signals, sockets):
        monkeypatch.setattr(module, "WINDOWS", True)
        monkeypatch.setattr(module, "LINUX", False, raising=False)
    return library


@pytest.fixture
def libsystem(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A Mac."""
    library = SimpleNamespace()
    monkeypatch.setattr(macos, "system", lambda: library)
    for module in (memory, cores, cpu, limits):
        monkeypatch.setattr(module, "MACOS", True)
        monkeypatch.setattr(module, "LINUX", False, raising=False)
    return library
