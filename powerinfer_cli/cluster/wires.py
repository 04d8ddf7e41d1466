"""Connections between ranks: whole pieces or a failure, and who is at the other end."""

import contextlib
import select
import socket
import threading
import time
from collections.abc import Sequence
from ipaddress import ip_address

from powerinfer_cli.system.sockets import notice_silence, receive_some, send_parts

__all__ = ["Address", "Lost", "Wire", "call", "is_loopback"]

Address = tuple[str, int]
SILENCE_S = 6  # of a machine or of the way to it; a few packets in a row are lost on some
RETRY_S = 0.1  # from one call to the next where nobody listens yet


class Lost(Exception):
    """A connection has ended, or says what it must not."""


class Wire:
    """One connection. peer: who is there, for people. Any thread may send, one may receive. Whoever receives learns
    within seconds that the way is cut, however long nothing was to be said.
    """

    _deadline: float | None = None  # `time.monotonic()`, of all that is received

    def __init__(self, sock: socket.socket, peer: str) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        notice_silence(sock, SILENCE_S)
        self._sock, self.peer = sock, peer
        self._sending = threading.Lock()

    @property
    def own_host(self) -> str:
        """Of this end."""
        found: str = self._sock.getsockname()[0]
        return found

    def limit(self, seconds: float | None) -> None:
        """How long it may be silent within `receive`, or stuck within `send`."""
        self._deadline = None
        self._sock.settimeout(seconds)

    def limit_all(self, seconds: float) -> None:
        """How long all that is received may take together, until `limit` says otherwise."""
        self.limit(seconds)
        self._deadline = time.monotonic() + seconds

    @property
    def speaks(self) -> bool:
        """Whether something has come that was not received yet, or the end."""
        return bool(select.select([self._sock], [], [], 0)[0])

    def send(self, *parts: bytes | bytearray | memoryview) -> None:
        """All of them, one behind the other. Raises Lost."""
        try:
            with self._sending:
                send_parts(self._sock, parts)
        except OSError as error:
            raise Lost(_reason(error)) from error

    def receive(self, n_bytes: int) -> bytearray:
        """So many bytes. Raises Lost."""
        found = bytearray(n_bytes)
        view, at = memoryview(found), 0
        try:
            while at < n_bytes:
                if self._deadline is not None:
                    self._sock.settimeout(max(0.001, self._deadline - time.monotonic()))
                n = receive_some(self._sock, view[at:])
                if not n:
                    raise Lost("has ended")
                at += n
        except OSError as error:
            raise Lost(_reason(error)) from error
        return found

    def end(self) -> None:
        """Whoever waits at it, here or there, is told that it has ended."""
        with contextlib.suppress(OSError):  # it has ended already
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """By the thread that has received here, once it does no more."""
        self.end()
        self._sock.close()


def _reason(error: OSError) -> str:
    return "is silent" if isinstance(error, TimeoutError) else "has ended"


def call(address: Address, peer: str, deadline: float) -> Wire:
    """Until somebody answers, or `time.monotonic()` is past the deadline. Raises Lost."""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Lost("does not answer")
        try:
            return Wire(socket.create_connection(address, timeout=left), peer)
        except socket.gaierror as error:
            raise Lost(f"has no address: {error.strerror}") from error
        except (OSError, UnicodeError):
            time.sleep(min(RETRY_S, max(0.0, left)))


def is_loopback(host: str) -> bool:
    """Whether all addresses of a host are this machine's own, for itself."""
    try:
        found: Sequence[tuple[object, ...]] = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ip_address(str(one[4][0]).partition("%")[0]).is_loopback for one in found)  # type: ignore[index]
