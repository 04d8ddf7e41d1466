"""`powerinfer cluster serve` in a process of its own, with those that Ray starts for it."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import httpx
import pytest

__all__ = ["RunningCluster", "descendants", "needs_ray"]

PATIENCE_S = 200.0  # Ray starts ten processes, on a machine that does much else
LISTENS = re.compile(r"server is listening on (http://\S+)")
REPLICA = "ray::ServeReplica:powerinfer:replicas"

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or not sys.platform.startswith("linux"),  # processes are found in /proc
    reason="the extra `cluster` is not installed",
)


def descendants(pid: int) -> dict[int, str]:
    """Command lines of all processes below, by process."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            for child in map(int, (task / "children").read_text().split()):
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                found |= descendants(child)
        except OSError:
            continue
    return found


class RunningCluster:
    """Ready when entered. Left: stopped, and with it all that it has started."""

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed when left
        self.url = ""

    def __enter__(self) -> "RunningCluster":
        command = [sys.executable, "-m", "powerinfer_cli", "cluster", "serve", "--port", "0", *self._flags]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        try:
            self.until(lambda: LISTENS.search(self.log) is not None)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        found = LISTENS.search(self.log)
        assert found is not None
        self.url = found[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        below = descendants(self.process.pid) if self.process.poll() is None else {}
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in below:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)
        self._log.close()

    @property
    def log(self) -> str:
        return os.pread(self._log.fileno(), 1 << 20, 0).decode("utf-8", "replace")

    def replicas(self) -> list[int]:
        """Their processes."""
        return [pid for pid, command in descendants(self.process.pid).items() if command.startswith(REPLICA)]

    def client(self, key: str = "") -> httpx.Client:
        """Close it."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S)

    def until(self, met: Callable[[], bool]) -> None:
        """Wait for it, and not for ever."""
        deadline = time.monotonic() + PATIENCE_S
        while not met():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)
