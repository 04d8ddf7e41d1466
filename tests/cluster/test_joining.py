"""How ranks meet, and what they refuse: one line each."""

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from powerinfer_cli.cluster import callers, joining
from powerinfer_cli.cluster.controls import Controls
from powerinfer_cli.cluster.hello import Hello
from powerinfer_cli.cluster.joining import Joined, Meeting, gather, join
from powerinfer_cli.cluster.seats import Seat
from powerinfer_cli.cluster.secret import prove_calling, read_key
from powerinfer_cli.cluster.wires import Said, Wire
from powerinfer_cli.errors import PowerInferError
from tests.helpers.cluster.ranks import free_port

KEY = b"a secret of ranks"
FIRST = Hello(0, 2, "abc", {"-c": "512"}, 512)


@pytest.fixture
def over(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Once it is set, a meeting's seconds are over."""
    found = threading.Event()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 1000 * found.is_set(), sleep=time.sleep)
    monkeypatch.setattr(joining, "time", clock)
    return found


def spied(monkeypatch: pytest.MonkeyPatch, event: threading.Event) -> None:
    """It is set once a rank has come to rank 0."""
    misplaced = joining._misplaced
    monkeypatch.setattr(joining, "_misplaced", lambda *parts: event.set() or misplaced(*parts))


def meet(
    first: Hello,
    others: list[Hello],
    keys: list[bytes] | None = None,
    look: Callable[[list[Joined]], None] = lambda _: None,
    noted: Callable[[], None] = lambda: None,
) -> list[object]:
    """What each rank is given: its connections, or the line of its error. look: at the connections while they are;
    noted: called behind each note.
    """
    port, found = free_port(), list[object]([None] * (1 + len(others)))
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        noted()

    def run(place: int, hello: Hello, way: Callable[[Meeting, Hello], Joined], key: bytes) -> None:
        seat = Seat(hello.rank, hello.n_ranks, "127.0.0.1", port)
        try:
            found[place] = way(Meeting(seat, key, 10.0, note), hello)
        except PowerInferError as error:
            found[place] = str(error)

    keys = keys or [KEY] * len(found)
    threads = [threading.Thread(target=run, args=(0, first, gather, keys[0]))]
    threads += [threading.Thread(target=run, args=(1 + i, other, join, keys[1 + i])) for i, other in enumerate(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    look([one for one in found if isinstance(one, Joined)])
    for one in found:
        if isinstance(one, Joined):
            for wire in (*one.controls.values(), one.before, one.behind):
                wire.close()
    return [*found, notes]


def test_ranks_find_their_neighbours() -> None:
    hellos = [replace(FIRST, rank=rank, n_ranks=4, n_ctx=512 - rank) for rank in range(4)]
    *found, notes = meet(hellos[0], [hellos[2], hellos[3], hellos[1]])
    assert all(isinstance(one, Joined) for one in found)
    first, second, third, fourth = (found[i] for i in (0, 3, 1, 2))
    assert {one.n_ctx for one in found} == {509}  # the smallest
    assert sorted(first.controls) == [1, 2, 3]
    ring = (first, second, third, fourth)
    assert [one.before.peer for one in ring] == [f"rank {n} (127.0.0.1)" for n in (3, 0, 1, 2)]
    assert [one.behind.peer for one in ring] == [f"rank {n} (127.0.0.1)" for n in (1, 2, 3, 0)]
    assert notes == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="by Linux's names")
def test_a_cut_between_neighbours_is_noticed() -> None:
    """By both ends of each connection, within 10 s and the 3 that a rank waits to be told; by keepalive alone, as
    TCP_USER_TIMEOUT ends a connection whose receiver computes for long.
    """
    seen = list[tuple[int, ...]]()

    def look(joined: list[Joined]) -> None:
        for one in joined:
            for wire in (*one.controls.values(), one.before, one.behind):
                tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
                options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *((socket.IPPROTO_TCP, name) for name in tcp)]
                seen.append(tuple(wire._sock.getsockopt(*option) for option in options))

    meet(replace(FIRST, n_ranks=3), [replace(FIRST, n_ranks=3, rank=rank) for rank in (1, 2)], look=look)
    assert len(seen) == 10
    for kept, idle, interval, n, user_timeout in seen:
        assert kept
        assert idle + interval * n <= 7
        assert n >= 4  # on a way that loses some
        assert not user_timeout


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"fingerprint": "xyz"}, "has another model file than rank 0: copy the same to all"),
        ({"flags": {"-c": "1024"}}, "was started with -c 1024, rank 0 with 512: start all ranks alike"),
        ({"flags": {"-c": "512", "--layers": "0-1,2-4"}}, "was started with --layers 0-1,2-4, rank 0 with None"),
        ({"n_ranks": 3}, "was started with --world-size 3, rank 0 with 2"),
        ({"n_ranks": 3, "rank": 2}, "was started with --world-size 3, rank 0 with 2"),
        ({"rank": 2}, "is none of the ranks 1 to 1: each needs its own --rank"),
        ({"version": "0.0.1"}, "has version 0.0.1, rank 0 has"),
    ],
)
def test_a_rank_that_differs_is_refused(other: dict[str, object], line: str) -> None:
    differs = replace(FIRST, **{"rank": 1} | other)
    first, second, _ = meet(FIRST, [differs])
    assert str(first).startswith(f"rank {differs.rank} (127.0.0.1) {line}")
    assert f"this rank {line}" in str(second)


def test_another_key_is_refused(over: threading.Event) -> None:
    keys = [KEY, b"another secret of ranks"]
    first, second, notes = meet(FIRST, [replace(FIRST, rank=1)], keys, noted=over.set)
    assert "has another key (--cluster-key-file)" in str(second)
    assert "rank 1 has not come" in str(first)
    assert "refused" in notes[0]


def test_a_rank_that_ends_while_the_last_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 does not wait for its call until it is too late."""
    port, found = free_port(), list[object]()
    hellos = [replace(FIRST, rank=rank) for rank in range(2)]
    meetings = [Meeting(Seat(rank, 2, "127.0.0.1", port), KEY, 30.0, lambda _: None) for rank in range(2)]
    call_behind = joining._call_behind

    def call(meeting: Meeting, address: tuple[str, int], controls: Controls) -> Wire:
        if meeting.seat.rank:
            raise Said("rank 0 (a) has no way to it")
        return call_behind(meeting, address, controls)

    monkeypatch.setattr(joining, "_call_behind", call)

    def run(way: Callable[[Meeting, Hello], Joined], rank: int) -> None:
        try:
            found.append(way(meetings[rank], hellos[rank]))
        except PowerInferError as error:
            found.append(str(error))

    threads = [threading.Thread(target=run, args=one) for one in ((gather, 0), (join, 1))]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - begin < 15
    assert [str(one) for one in found] == 2 * ["rank 0 (a) has no way to it"]  # as rank 1 has told


def test_two_of_one_rank() -> None:
    hellos = [replace(FIRST, rank=rank, n_ranks=3) for rank in (0, 1, 1)]
    first, *others, _ = meet(hellos[0], hellos[1:])
    assert "rank 1 (127.0.0.1) is rank 1, and so is somebody else" in str(first)
    assert all("rank 1, and so is somebody else" in str(other) for other in others)


def test_ranks_that_do_not_come_are_named(monkeypatch: pytest.MonkeyPatch, over: threading.Event) -> None:
    spied(monkeypatch, over)
    hellos = [replace(FIRST, rank=rank, n_ranks=4) for rank in range(4)]
    first, second, _ = meet(hellos[0], [hellos[2]])
    assert str(first).startswith("rank 1, rank 3 have not come to 127.0.0.1 port ")
    assert str(first).endswith("within 10 s")
    assert "have not come" in str(second)


def test_nobody_answers() -> None:
    port = free_port()
    with pytest.raises(PowerInferError, match=rf"rank 0 \(127.0.0.1 port {port}\) does not answer: tried for 0.3 s"):
        join(Meeting(Seat(1, 2, "127.0.0.1", port), KEY, 0.3, print), replace(FIRST, rank=1))


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PowerInferError, match=f"cannot listen on 127.0.0.1 port {port}"):
            gather(Meeting(Seat(0, 2, "127.0.0.1", port), KEY, 1.0, print), FIRST)


def test_strangers_do_not_disturb() -> None:
    """Who says nothing that a rank says is sent away, and told nothing but a number of ours."""
    port, notes = free_port(), list[str]()
    seats = [Seat(rank, 2, "127.0.0.1", port) for rank in range(2)]
    found: list[Joined] = []
    first = threading.Thread(target=lambda: found.append(gather(Meeting(seats[0], KEY, 10.0, notes.append), FIRST)))
    first.start()
    for words in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"PIRANKS1" + bytes(64)):
        with _called(port) as stranger:
            stranger.sendall(words)
            told = b""
            with suppress(ConnectionError):
                while piece := stranger.recv(4096):
                    told += piece
        assert len(told) in (0, 64)  # a number and a proof, which differ each time
    found.append(join(Meeting(seats[1], KEY, 10.0, notes.append), replace(FIRST, rank=1)))
    first.join(10)
    assert len(notes) == 2
    assert all("refused" in line for line in notes)
    for one in found:
        for wire in (*one.controls.values(), one.before, one.behind):
            wire.close()


def test_strangers_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many that say nothing, before any rank calls; and one that says it slowly is sent away."""
    monkeypatch.setattr(callers, "PROOF_S", 30.0)
    port, found = free_port(), list[Joined]()
    meetings = [Meeting(Seat(rank, 2, "127.0.0.1", port), KEY, 60.0, lambda _: None) for rank in range(2)]
    first = threading.Thread(target=lambda: found.append(gather(meetings[0], FIRST)))
    first.start()
    strangers = [_called(port) for _ in range(12)]
    begin = time.monotonic()
    found.append(join(meetings[1], replace(FIRST, rank=1)))
    first.join(60)
    assert time.monotonic() - begin < callers.PROOF_S
    for one in strangers:
        one.close()
    for one in found:
        for wire in (*one.controls.values(), one.before, one.behind):
            wire.close()


def test_who_proves_slowly_is_none(monkeypatch: pytest.MonkeyPatch, over: threading.Event) -> None:
    monkeypatch.setattr(callers, "PROOF_S", 0.3)
    port, notes = free_port(), list[str]()

    def note(line: str) -> None:
        notes.append(line)
        over.set()

    meeting = Meeting(Seat(0, 2, "127.0.0.1", port), KEY, 20.0, note)

    def wait() -> None:
        with pytest.raises(PowerInferError, match="rank 1 has not come"):
            gather(meeting, FIRST)

    first = threading.Thread(target=wait)
    first.start()
    begin = time.monotonic()
    with _called(port) as stranger, suppress(ConnectionError):
        for byte in b"PIRANKS1" + bytes(32):  # 4 s
            stranger.sendall(bytes([byte]))
            time.sleep(0.1)
    assert time.monotonic() - begin < 3.5
    first.join(30)
    assert notes == ["warning: who called from 127.0.0.1 is silent: refused"]


def test_a_rank_that_ends_may_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others are waited for; its connection was reset."""
    came = threading.Event()
    spied(monkeypatch, came)
    port, notes, found = free_port(), list[str](), list[Joined]()
    hellos = [replace(FIRST, rank=rank, n_ranks=3) for rank in range(3)]
    meetings = [Meeting(Seat(rank, 3, "127.0.0.1", port), KEY, 20.0, notes.append) for rank in range(3)]
    first = threading.Thread(target=lambda: found.append(gather(meetings[0], hellos[0])))
    first.start()
    sock = _called(port)
    wire = Wire(sock, "rank 0")
    prove_calling(wire, KEY)
    replace(hellos[2], port=1).message().send(wire)
    assert came.wait(20)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    others = [threading.Thread(target=lambda n=n: found.append(join(meetings[n], hellos[n]))) for n in (2, 1)]
    for thread in others:
        thread.start()
    for thread in (first, *others):
        thread.join(60)
    assert len(found) == 3
    assert notes == ["warning: rank 2 (127.0.0.1) has ended: waiting until it is started again"]
    for one in found:
        for end in (*one.controls.values(), one.before, one.behind):
            end.close()


def _called(port: int) -> socket.socket:
    for _ in range(2000):
        with suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        threading.Event().wait(0.01)
    raise AssertionError("nobody listens")


def test_keys(tmp_path: Path) -> None:
    path, notes = tmp_path / "key", list[str]()
    path.write_text("0123456789abcdef\n")
    path.chmod(0o600)
    assert read_key(path, notes.append) == b"0123456789abcdef"
    assert read_key(None, notes.append) == b""
    path.write_text("short")
    with pytest.raises(PowerInferError, match="16 to 4096 bytes make a key"):
        read_key(path, notes.append)
    with pytest.raises(PowerInferError, match="No such file"):
        read_key(tmp_path / "none", notes.append)
    with pytest.raises(PowerInferError, match="is no file with a key"):
        read_key(tmp_path, notes.append)
    assert notes == []


@pytest.mark.skipif(sys.platform == "win32", reason="Unix's pipes and rights")
def test_keys_of_unix(tmp_path: Path) -> None:
    path, notes = tmp_path / "key", list[str]()
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it
    with pytest.raises(PowerInferError, match="is no file with a key"):
        read_key(tmp_path / "pipe", notes.append)
    path.write_text("0123456789abcdef\n")
    path.chmod(0o640)
    assert read_key(path, notes.append) == b"0123456789abcdef"
    assert notes == [f"warning: --cluster-key-file {path}: other users can read it: chmod 600"]
