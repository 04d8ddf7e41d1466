"""A server as a process of its own, on a free port."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Server", "running", "server_command"]

ROOT = Path(__file__).resolve().parent.parent.parent
START_S = 300.0
STOP_S = 10.0


@dataclass(frozen=True)
class Server:
    """A server that answers at 127.0.0.1:`port`."""

    port: int
    process: subprocess.Popen[bytes]

    def resident_bytes(self) -> int:
        """Memory that the process has in use now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> int:
        """SIGTERM; the exit code, or -9 if it had to be killed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def server_command(*flags: str) -> list[str]:
    """This project's server."""
    return [sys.executable, "-m", "powerinfer_cli", "server", *flags]


@contextmanager
def running(command: Sequence[str], log: IO[bytes], variables: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Start `command` with --host and --port, wait until /health says 200, and stop it in the end.

    Raises RuntimeError if it ends before, or does not load within some minutes; what it writes goes to `log`.
    """
    port = free_port()
    place = ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
    process = subprocess.Popen([*command, *place], stdout=log, stderr=log, env=environment)
    server = Server(port, process)
    try:
        deadline = time.monotonic() + START_S
        while not healthy(port):
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with code {process.returncode}; see its log")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} has not loaded after {START_S:g} s")
            time.sleep(0.05)
        yield server
    finally:
        if process.poll() is None:
            server.stop()


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def healthy(port: int) -> bool:
    """Does /health say 200?"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()
