"""An end for a process that was told to end, whatever its threads do.

A handler in Python runs once the main thread has the interpreter's lock, and a thread in C may hold that for long. So a
small process of its own is told of signals by the part of Python's handlers that is C, and ends the server if need be.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from powerinfer_cli.system.signals import APART
from powerinfer_cli.system.which import WINDOWS

__all__ = ["watchdog"]

SIG_IGN = 1
_PROGRAM = """
import os, select, signal, sys, time
server, seconds, line = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # for the server, where all processes of a service get it
def signals(wait):
    '''The bytes of what came meanwhile; None once the server is gone.'''
    if not select.select([0], [], [], wait)[0]:
        return b""
    told = os.read(0, 64)
    if not told or os.getppid() != server:
        sys.exit()
    return bytes(number for number in told if number in (signal.SIGTERM, signal.SIGINT))
count = 0
while not count:
    count += len(signals(None))
end = time.monotonic() + seconds
while (left := end - time.monotonic()) > 0:
    count += len(signals(left))
    if count > 1:  # the server ends at once, if it can
        end = min(end, time.monotonic() + 0.3)
if line:
    try:
        os.write(2, (line + "\\n").encode())
    except OSError:
        pass
os.kill(server, signal.SIGHUP)
signals(0.2)
os.kill(server, signal.SIGKILL)
"""


@contextmanager
def watchdog(seconds: float, line: str) -> Iterator[None]:
    """Within, SIGTERM and SIGINT, for which Python must have handlers, end the process after `seconds`, with code 1;
    `line` is then written to stderr. A second one ends it at once. For the main thread. Raises OSError.

    Not on Windows, which lets no other process have the signals: there `exit_later` alone ends what does not end.
    """
    if WINDOWS:
        yield
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, str(os.getpid()), str(seconds), line],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={},
            **APART,
        )
        theirs.close()
        ours.setblocking(False)
        before = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
        try:
            with _hangup_exits():
                yield
        finally:
            signal.set_wakeup_fd(before)
            process.kill()
            process.wait()


@contextmanager
def _hangup_exits() -> Iterator[None]:
    """SIGHUP calls C's _exit, whose code is its number, 1; without Python, and even for a container's first process,
    which nothing that it does not handle can end. Where it is to be ignored (nohup), it is.
    """
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before = libc.signal(signal.SIGHUP, ctypes.cast(libc._exit, ctypes.c_void_p))
    if before == SIG_IGN:
        libc.signal(signal.SIGHUP, before)
    try:
        yield
    finally:
        libc.signal(signal.SIGHUP, before)
