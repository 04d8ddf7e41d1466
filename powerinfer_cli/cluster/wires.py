"""Connections between ranks: whole pieces or a failure, and who is at the other end."""

import contextlib
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from powerinfer_cli.system.sockets import notice_silence, receive_ready, receive_some, send_parts

__all__ = ["Address", "Lost", "Part", "Said", "Wire", "call", "is_loopback"]

Address = tuple[str, int]
Part = bytes | bytearray | memoryview
SILENCE_S = 6  # of a machine or of the way to it; a few packets in a row are lost on some
LATE_S, LATE = 2e-3, 1 / 8  # for so long who waits looks whether something has come, at most; of the usual time
CALL_S = 2.0  # of one call, where a firewall answers nothing; then it is seen whether others have ended
RETRY_S = 0.1  # from one call to the next where nobody listens yet


class Lost(Exception):
    """A connection has ended, or says what it must not."""


class Said(Lost):
    """The same, in a whole line that names who: rank 0's, or one about another rank than the one that was heard."""


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

    def peek(self, n_bytes: int) -> bytes:
        """At most so many bytes of what has come and was not received yet, which stay. Raises Lost: at the end."""
        if not self.speaks:
            return b""
        try:
            found = self._sock.recv(n_bytes, socket.MSG_PEEK)
        except OSError as error:
            raise Lost(_reason(error)) from error
        if not found:
            raise Lost("has ended")
        return found

    def send(self, *parts: Part, full: Callable[[], None] | None = None) -> None:
        """All of them, one behind the other. full: is called where the other end takes no more just now, and waits
        until it may, in place of this. Raises Lost.
        """
        try:
            with self._sending:
                send_parts(self._sock, parts, full)
        except OSError as error:
            raise Lost(_reason(error)) from error

    def wait(self, other: "Wire | None") -> bool:
        """Until something can be sent here, or received at the other: whether it is the latter."""
        with selectors.DefaultSelector() as found:
            found.register(self._sock, selectors.EVENT_WRITE)
            if other is not None:
                found.register(other._sock, selectors.EVENT_READ)
            return any(events & selectors.EVENT_READ for _, events in found.select())

    def receive(self, n_bytes: int) -> bytearray:
        """So many bytes. Raises Lost."""
        found = bytearray(n_bytes)
        self.receive_into(memoryview(found), n_bytes)
        return found

    def receive_into(self, view: memoryview, least: int, usual: float = 0.0) -> int:
        """At least so many bytes, and what else has come, as far as it goes in; how many. usual: seconds until they
        come, mostly, if known; who is asked for them is awake by then. Raises Lost.
        """
        at = 0
        try:
            if usual:
                at = self._look(view, usual)
            while at < least:
                if self._deadline is not None:
                    self._sock.settimeout(max(0.001, self._deadline - time.monotonic()))
                n = receive_some(self._sock, view[at:], whole=least == len(view))
                if not n:
                    raise Lost("has ended")
                at += n
        except OSError as error:
            raise Lost(_reason(error)) from error
        except BaseException:  # what has come is not known: nothing behind it can be told from the rest
            self.end()
            raise
        return at

    def _look(self, view: memoryview, usual: float) -> int:
        """What has come by about then: a core that sleeps takes 0.1 ms to be woken. 0: nothing yet."""
        spare = min(LATE_S, usual * LATE)
        select.select([self._sock], [], [], max(0.0, usual - spare / 8))
        until = time.monotonic() + spare
        while True:
            n = receive_ready(self._sock, view)
            if n == 0:
                raise Lost("has ended")
            if n is not None:
                return n
            if time.monotonic() > until:
                return 0

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


def call(address: Address, peer: str, seconds: float, look: Callable[[], None] | None = None) -> Wire:
    """Until somebody answers, or the seconds are over. look: is called between calls, and may raise. Raises Lost."""
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Lost(f"does not answer: tried for {seconds:g} s; a firewall between may be why")
        if look is not None:
            look()
        try:
            return Wire(socket.create_connection(address, timeout=min(left, CALL_S)), peer)
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
