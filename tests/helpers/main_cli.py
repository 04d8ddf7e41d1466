"""Runs `powerinfer main` as its user does: inside this process, or in one of its own that costs no import of torch."""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any
from unittest import mock

import pytest

from powerinfer_cli.cli import run
from tests.helpers.result import Result

PATIENCE = 40  # seconds


def powerinfer(*args: str, stdin: str | bytes = b"") -> Result:
    """The program inside this process."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with (
        mock.patch.object(sys, "argv", ["powerinfer", *args]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run()
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int)
    return Result(code, out.getvalue(), err.getvalue())


_SERVER = multiprocessing.get_context("forkserver") if hasattr(os, "fork") else None
if _SERVER is not None:
    _SERVER.set_forkserver_preload(
        [
            "tests.helpers.main_cli",
            "powerinfer_cli.commands.main.chat",
            "powerinfer_cli.serving.lifecycle",
        ]
    )


class Process:
    """`powerinfer` in a process of its own, whose streams are this test's: a pipe each, or one terminal for all.

    redirected: of those at a terminal, these (by number) are pipes all the same.
    """

    def __init__(
        self,
        *args: str,
        terminal: bool = False,
        redirected: Sequence[int] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self._written = {1: b"", 2: b""}
        if _SERVER is None:
            pytest.skip("a process that gets these streams is forked, and terminals are pairs: not on Windows")
        if terminal:
            ours, theirs = os.openpty()
            self._stdin, self._read = ours, {ours: 2 if 1 in redirected else 1}
            streams = [theirs] * 3
        else:
            self._stdin, self._read = -1, {}
            streams, redirected = [-1] * 3, range(3)
        for number in redirected:
            read, write = os.pipe()
            if number == 0:
                self._stdin, streams[0] = write, read
            else:
                self._read[read], streams[number] = number, write
        for fd in self._read:
            os.set_blocking(fd, False)
        self._process: BaseProcess = _SERVER.Process(
            target=_child, args=(args, [_Handed(fd) for fd in streams], terminal, env or {})
        )
        self._process.start()
        for fd in set(streams):
            os.close(fd)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.join()
        for fd in {self._stdin, *self._read} - {-1}:
            os.close(fd)

    @property
    def out(self) -> str:
        """What came on stdout (or the terminal) so far."""
        self._collect()
        return self._written[1].decode("utf-8", "replace")

    @property
    def err(self) -> str:
        self._collect()
        return self._written[2].decode("utf-8", "replace")

    def type(self, text: str) -> None:
        os.write(self._stdin, text.encode())

    def end_input(self) -> None:
        os.close(self._stdin)
        self._stdin = -1

    def close_output(self) -> None:
        """As `| head` does once it has seen enough."""
        fd = next(fd for fd, stream in self._read.items() if stream == 1)
        os.close(fd)
        del self._read[fd]

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def interrupt(self) -> None:
        self.signal(signal.SIGINT)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_for_editor(self, times: int) -> None:
        """Until line editing has begun so many times: it turns bracketed paste on."""
        self.wait_for("\x1b[?2004h", times)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until `text` was written so many times."""
        deadline = time.monotonic() + PATIENCE
        while (self.out + self.err).count(text) < times:
            assert time.monotonic() < deadline, (text, self.out, self.err)
            assert self._process.is_alive() or (self.out + self.err).count(text) >= times, (text, self.out, self.err)
            time.sleep(0.01)

    def wait(self) -> Result:
        """Until it ends."""
        deadline = time.monotonic() + PATIENCE
        while self._process.is_alive():
            assert time.monotonic() < deadline, (self.out, self.err)
            self._collect()
            time.sleep(0.01)
        assert self._process.exitcode is not None
        return Result(self._process.exitcode, self.out, self.err)

    def _collect(self) -> None:
        for fd, stream in self._read.items():
            # A terminal answers EIO once its other side is closed.
            with contextlib.suppress(BlockingIOError, OSError):
                while data := os.read(fd, 1 << 16):
                    self._written[stream] += data


class _Handed:
    """A file descriptor that arrives in the child as its number there."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> Any:
        from multiprocessing.reduction import DupFd

        return _received, (DupFd(self._fd),)


def _received(duplicate: Any) -> int:
    fd: int = duplicate.detach()
    return fd


def _child(args: Sequence[str], streams: list[int], terminal: bool, env: dict[str, str]) -> None:
    os.environ |= {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **env}
    os.setsid()
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    if terminal:
        # The first terminal that a session leader opens is the one whose Ctrl-C it gets.
        at = next(fd for fd in range(3) if os.isatty(fd))
        os.close(os.open(os.ttyname(at), os.O_RDWR))
        import termios

        termios.tcsetwinsize(at, (24, 80))
    # As Python opens its own: their numbers outlive them.
    sys.stdin, sys.stdout, sys.stderr = (open(fd, mode, closefd=False) for fd, mode in enumerate("rww"))  # noqa: SIM115
    sys.argv = ["powerinfer", *args]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
