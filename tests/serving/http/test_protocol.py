"""Connections of a server in this process: how many there may be, and what they may send besides requests."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from powerinfer_cli.serving.http import protocol as module
from powerinfer_cli.serving.http.bodies import Answer
from powerinfer_cli.serving.http.protocol import most_connections, protocol

resource = pytest.importorskip("resource", reason="Windows has no such limits")

MOST = 3
GET = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
full: list[None] = []
left = threading.Event()  # a client of /wait


async def names_of_headers(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads all, and tells which headers there were."""
    more = scope["method"] == "POST"
    while more:
        message = await receive()
        more = message.get("more_body", False)
    if scope["path"] == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()
        return
    await Answer([name.decode() for name, _ in scope["headers"]])(scope, receive, send)


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    kind = protocol(30.0, MOST, lambda: full.append(None))
    config = uvicorn.Config(names_of_headers, http=kind, ws="none", lifespan="off", log_level="critical", port=0)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[:2]
    server.should_exit = server.force_exit = True
    thread.join(20)


@pytest.fixture
def connect(address: tuple[str, int]) -> Iterator[Callable[[], socket.socket]]:
    """A new connection, closed in the end."""
    with contextlib.ExitStack() as opened:
        yield lambda: opened.enter_context(socket.create_connection(address, timeout=30))


def answer(peer: socket.socket) -> bytes:
    """What comes, up to the end of its body; empty where the connection was closed."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while not found.endswith(b"]") and (data := peer.recv(1 << 16)):
            found += data
    return found


def test_the_longest_idle_leaves_for_a_new_one(connect: Callable[[], socket.socket]) -> None:
    full.clear()
    writing = connect()
    writing.sendall(CHUNKED[:-5])  # in the midst of a request, it is not idle
    time.sleep(0.2)
    first = connect()
    time.sleep(0.2)
    others = []
    for _ in range(2 * MOST):
        others.append(connect())
        others[-1].sendall(GET)
        assert answer(others[-1]).startswith(b"HTTP/1.1 200")
    assert answer(first) == b""
    others[-1].sendall(GET)  # it stays open between its requests
    assert answer(others[-1]).startswith(b"HTTP/1.1 200")
    writing.sendall(CHUNKED[-5:] + b"\r\n")
    assert answer(writing).startswith(b"HTTP/1.1 200")
    assert full


def test_trailers_are_no_headers(connect: Callable[[], socket.socket]) -> None:
    peer = connect()
    peer.sendall(CHUNKED + b"Authorization: Bearer x\r\nX-A: b\r\n\r\n")
    found = answer(peer)
    assert b"transfer-encoding" in found
    assert b"authorization" not in found


@pytest.mark.parametrize("piece", [b"X-A: " + b"a" * 8000 + b"\r\n", b"a" * 8000], ids=["many", "one without end"])
def test_trailers_without_end_are_not_read(connect: Callable[[], socket.socket], piece: bytes) -> None:
    peer = connect()
    taken = 0
    with contextlib.suppress(ConnectionError):
        peer.sendall(CHUNKED + b"X-B: ")
        for _ in range(10_000):
            peer.sendall(piece)
            taken += len(piece)
    assert taken < 40 << 20  # what the kernel holds is some megabytes
    assert answer(peer) == b""


def test_a_long_body_in_small_chunks_is_read(connect: Callable[[], socket.socket]) -> None:
    peer = connect()
    peer.sendall(CHUNKED[:-3])
    for _ in range(100):
        peer.sendall(b"1;a=b\r\n \r\n" * 200)
    peer.sendall(b"0\r\n\r\n")
    assert answer(peer).startswith(b"HTTP/1.1 200")


def test_few_requests_may_wait_on_a_connection(connect: Callable[[], socket.socket]) -> None:
    """Each takes kilobytes, and a packet holds thousands."""
    left.clear()
    peer = connect()
    peer.sendall(CHUNKED[:-3])
    peer.sendall(b"0\r\n\r\n" + GET * 20)
    found = answer(peer)
    while found.count(b"HTTP/1.1 200") < 21:
        found += answer(peer)
    peer = connect()
    peer.sendall(b"GET /wait HTTP/1.1\r\n\r\n" + GET * (module.MOST_PIPELINED + 2))
    assert answer(peer) == b""
    assert left.wait(30)


def test_who_leaves_is_missed_though_more_requests_wait(connect: Callable[[], socket.socket]) -> None:
    left.clear()
    peer = connect()
    peer.sendall(b"GET /wait HTTP/1.1\r\n\r\n" + GET)
    peer.close()
    assert left.wait(30)


@pytest.mark.parametrize(
    ("most_files", "least", "most"),
    [(16, 4, 4), (300, 4, 268), (1 << 20, 1024, 1024), (resource.RLIM_INFINITY, 1024, 1024)],
)
def test_connections_leave_room_for_files(
    monkeypatch: pytest.MonkeyPatch, most_files: int, least: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (most_files, most_files))
    assert least <= most_connections() <= most
