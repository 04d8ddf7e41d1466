"""One process that renders, from outside: started when it is needed, and anew when it has ended."""

import contextlib
import importlib.util
import os
import socket
import subprocess
from functools import cache
from pathlib import Path

from powerinfer_cli.system.limits import TIMED
from powerinfer_cli.system.processes import python_program
from powerinfer_cli.system.signals import APART, KILLED, OUT_OF_TIME
from powerinfer_cli.system.sockets import as_input, hand_over

from .limits import Cause, Limits, RenderingError
from .protocol import REPLY, REQUEST

__all__ = ["Process"]

PATIENCE_S = 30.0
"""By the clock, for what has not used its processor time by then: the machine is busy, or the process stands still."""
STARTING_S = 3.0
"""More than its processor time, by the clock, where the system does not count that."""
ENDING_S = 2.0
_PROGRAM = """import sys
sys.path += sys.argv[4:]
from powerinfer_cli.rendering.worker import main
main(*map(int, sys.argv[1:4]))"""
_VARIABLES = ("LD_LIBRARY_PATH", "TZ", "TZDIR", "SYSTEMROOT")  # no others: they may be secret


class Process:
    """Used by one thread at a time, but for `interrupt`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._interrupted = False

    def start(self) -> None:
        """Unless it runs; nothing is waited for. Raises RenderingError."""
        if self._process is not None and self._process.poll() is None:
            return
        self.end()
        try:
            self._socket, theirs = socket.socketpair()
            self._socket.settimeout(PATIENCE_S if TIMED else self._limits.cpu_ms / 1000 + STARTING_S)
            with theirs:
                self._process = _started(self._limits, theirs)
        except OSError as error:
            self.end()
            reason = f"no process can be started for it: {error.strerror or error}"
            raise RenderingError(reason, Cause.PROCESS) from error

    def ask(self, source: bytes, values: bytes) -> bytes:
        """The text of a template for variables as JSON, in UTF-8; none for none. Raises RenderingError."""
        self._interrupted = False
        self.start()
        try:
            done, last, answer = self._exchange(REQUEST.pack(len(source), len(values)) + source + values)
        except OSError as error:
            failure = self._failure(error)
            self._succeed()
            raise failure from error
        except BaseException:  # Ctrl-C
            self.end()
            raise
        if last:
            self.end()
            self._succeed()
        if not done:
            raise RenderingError(answer.decode("utf-8", "replace"), Cause.LIMIT if last else Cause.TEMPLATE)
        return answer

    def interrupt(self) -> None:
        """Let `ask` fail soon. Any thread."""
        self._interrupted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def end(self, patience_s: float = 0.0) -> int:
        """It has ended, and `patience_s` for doing so by itself. With which code."""
        if self._socket is not None:
            self._socket.close()
        process, self._process, self._socket = self._process, None, None
        if process is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(patience_s)
        process.kill()
        return process.wait()

    def _succeed(self) -> None:
        """Be ready before somebody waits."""
        with contextlib.suppress(RenderingError):
            self.start()

    def _exchange(self, request: bytes) -> tuple[bool, bool, bytes]:
        """As in REPLY. Raises OSError, TimeoutError among them."""
        assert self._socket is not None
        self._socket.sendall(request)
        done, last, size = REPLY.unpack(self._received(REPLY.size))
        return done, last, self._received(size)

    def _received(self, size: int) -> bytes:
        assert self._socket is not None
        answer = bytearray(size)
        left = memoryview(answer)
        while left:
            n = self._socket.recv_into(left)
            if not n:
                raise ConnectionError
            left = left[n:]
        return bytes(answer)

    def _failure(self, error: OSError) -> RenderingError:
        """Ends it. What was wrong, by how it ended."""
        late = isinstance(error, TimeoutError)
        code = self.end(0.0 if late or self._interrupted else ENDING_S)
        if self._interrupted:
            return RenderingError("nobody waits for it any more", Cause.PROCESS)
        if late and TIMED:
            return RenderingError(f"it takes longer than {PATIENCE_S:g} s", Cause.PROCESS)
        if late or code == OUT_OF_TIME:
            return RenderingError(f"it takes longer than {self._limits.cpu_ms / 1000:g} s", Cause.LIMIT)
        if code == KILLED:
            return RenderingError("its process was killed (is memory short?)", Cause.PROCESS)
        return RenderingError(f"it needs too much memory (its process ended with code {code})", Cause.LIMIT)


def _started(limits: Limits, stdin: socket.socket) -> "subprocess.Popen[bytes]":
    """-I -S: neither the environment nor a folder tells it what to import, and it starts in half the time. A session of
    its own: Ctrl-C is not meant for it.
    """
    given = (limits.memory_bytes, limits.cpu_ms, limits.text_bytes)
    program, _ = python_program()
    process = subprocess.Popen(
        [program, "-I", "-S", "-c", _PROGRAM, *map(str, given), *_folders()],
        stdin=as_input(stdin),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        **APART,
    )
    hand_over(stdin, process)
    return process


@cache
def _folders() -> tuple[str, ...]:
    """Where what it imports is."""
    found = (importlib.util.find_spec(name) for name in ("powerinfer_cli", "jinja2", "markupsafe"))
    origins = (Path(spec.origin).parent.parent for spec in found if spec is not None and spec.origin is not None)
    return tuple(dict.fromkeys(str(origin) for origin in origins))
