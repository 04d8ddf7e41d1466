"""Sockets: what systems name or do each in their own way. Python on Windows has none with paths, and lets children
inherit none.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from powerinfer_cli.system.which import WINDOWS

if TYPE_CHECKING:  # small processes import this
    import socket
    import subprocess

__all__ = [
    "as_input",
    "free_port",
    "hand_over",
    "input_streams",
    "keep_port",
    "notice_silence",
    "open_descriptors",
    "path_family",
    "receive_ready",
    "receive_some",
    "send_parts",
]

_PIPE = -1  # subprocess.PIPE
_JOINED = 1 << 16  # bytes of parts that are copied rather than sent as a packet each


def path_family() -> int | None:
    """The family of sockets whose addresses are paths; None where there is none."""
    import socket

    return getattr(socket, "AF_UNIX", None)


def keep_port(sock: "socket.socket") -> None:
    """Before it is bound: a port whose last owner has just ended can be had at once, and nobody else's can be taken,
    which Windows would allow by the option that says the former elsewhere.
    """
    import socket

    if WINDOWS:
        sock.setsockopt(socket.SOL_SOCKET, vars(socket)["SO_EXCLUSIVEADDRUSE"], 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def notice_silence(sock: "socket.socket", seconds: int) -> None:
    """Of a TCP connection: who waits to receive is told (ETIMEDOUT) soon after the other end's machine, or the way to
    it, has been silent for so long. A process there that is busy is not silent: its system answers. (No
    TCP_USER_TIMEOUT: on Linux it also ends a connection whose receiver is too busy to read.)
    """
    import socket

    options = vars(socket)
    idle = options.get("TCP_KEEPIDLE", options.get("TCP_KEEPALIVE"))  # macOS has the latter
    for option, value in ((idle, 1), (options.get("TCP_KEEPINTVL"), 1), (options.get("TCP_KEEPCNT"), seconds - 1)):
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def send_parts(
    sock: "socket.socket", parts: Sequence[bytes | bytearray | memoryview], full: Callable[[], None] | None = None
) -> None:
    """All of them, one behind the other; its time limit is for each piece that the system takes. full: is called where
    it takes none just now, and waits until it may; without, this waits. Raises OSError.

    Python on Windows sends one part at a time: small ones are joined, so that a head does not go by itself.
    """
    left = [memoryview(part).cast("B") for part in parts if len(part)]
    if WINDOWS and sum(map(len, left)) <= _JOINED:
        left = [memoryview(b"".join(left))]
    seconds = None if full is None else sock.gettimeout()
    if full is not None:
        sock.setblocking(False)
    try:
        while left:
            try:
                sent = sock.send(left[0]) if WINDOWS else sock.sendmsg(left)
            except BlockingIOError:
                if full is None:
                    raise
                full()
                continue
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = left[0][sent:]
    finally:
        if full is not None:
            sock.settimeout(seconds)


def receive_some(sock: "socket.socket", room: memoryview, *, whole: bool = True) -> int:
    """How many bytes have come: at least one, and all where that is wanted and the system waits for them; 0: the end.
    Raises OSError.

    Windows refuses to wait for all (MSG_WAITALL) at a socket with a time limit.
    """
    import socket

    return sock.recv_into(room, 0, socket.MSG_WAITALL if whole and not WINDOWS else 0)


def receive_ready(sock: "socket.socket", room: memoryview) -> int | None:
    """The same of what is there already; None: nothing. Raises OSError."""
    import select
    import socket

    if WINDOWS:
        return sock.recv_into(room) if select.select([sock], [], [], 0)[0] else None
    try:
        return sock.recv_into(room, 0, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None


def free_port() -> int:
    """A port of 127.0.0.1 where nobody listens now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_input(sock: "socket.socket") -> int:
    """A child's `stdin`, for a socket that `hand_over` gives it after it has started."""
    return _PIPE if WINDOWS else sock.fileno()


def hand_over(sock: "socket.socket", child: "subprocess.Popen[bytes]") -> None:
    """Raises OSError."""
    if WINDOWS:
        shared: Any = sock
        assert child.stdin is not None
        with child.stdin as stdin:
            stdin.write(shared.share(child.pid))


def input_streams() -> tuple[IO[bytes], IO[bytes]]:
    """In the child: what reads from its socket, and what writes to it."""
    if not WINDOWS:
        return open(0, "rb", closefd=False), open(0, "wb", closefd=False)  # a descriptor
    import socket

    with open(0, "rb", closefd=False) as told:
        shared = vars(socket)["fromshare"](told.read())
    return shared.makefile("rb"), shared.makefile("wb")


def open_descriptors() -> tuple[int | None, int | None]:
    """How many files and sockets this process may have open, and how many it has; None: no limit, and not known."""
    if WINDOWS:
        return None, None
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        n_open = len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        n_open = None  # not Linux
    return (None if most == resource.RLIM_INFINITY else most), n_open
