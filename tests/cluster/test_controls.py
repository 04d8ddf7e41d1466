"""What ranks hear of each other while they find their neighbours: within the 10 s in which all end."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from powerinfer_cli.cluster import beats, joining
from powerinfer_cli.cluster import controls as controls_module
from powerinfer_cli.cluster.controls import Controls
from powerinfer_cli.cluster.hello import Hello
from powerinfer_cli.cluster.joining import Joined, Meeting, gather, join
from powerinfer_cli.cluster.messages import Message, Op, receive, worded
from powerinfer_cli.cluster.seats import Seat
from powerinfer_cli.cluster.wires import Address, Lost, Said, Wire
from powerinfer_cli.errors import PowerInferError
from tests.helpers.cluster.ranks import free_port

KEY = b"a secret of ranks"


def look_on(found: Controls) -> None:
    """Until it raises, or 5 s are over."""
    for _ in range(500):
        found.look()
        time.sleep(0.01)


@pytest.fixture
def ends() -> Iterator[tuple[Wire, Wire, socket.socket]]:
    """Two ends of a connection, and the door where it began."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        here = Wire(socket.create_connection(door.getsockname()), "b")
        there = Wire(door.accept()[0], "rank 0")
        yield here, there, door
        here.close()
        there.close()


def test_who_joins_hears_that_another_has_gone(ends: tuple[Wire, Wire, socket.socket]) -> None:
    """While it waits for a call, and while it calls where nobody answers."""
    here, there, door = ends
    seat = Seat(2, 3, "127.0.0.1", door.getsockname()[1])
    meeting, found = Meeting(seat, KEY, 20.0, print), Controls(seat, {0: here})
    begin = time.monotonic()
    for wait in (
        lambda: joining._called(door, meeting, found),
        lambda: joining._call_behind(meeting, ("127.0.0.1", free_port()), found),
    ):
        worded(Op.GONE, "rank 1 (b) is silent").send(there)
        with pytest.raises(Lost, match=r"^rank 1 \(b\) is silent$"):
            wait()
    assert time.monotonic() - begin < 5
    there.close()
    with pytest.raises(Lost, match=r"rank 0 .* has ended"):
        joining._called(door, meeting, found)


def test_who_is_ready_is_kept_and_its_end_seen(ends: tuple[Wire, Wire, socket.socket]) -> None:
    here, there, _ = ends
    found = Controls(Seat(0, 2, "127.0.0.1", 1), {1: here})
    Message(Op.READY, (3,)).send(there)
    there.close()
    with pytest.raises(Said, match=r"^rank 1 \(b\) has ended$"):
        look_on(found)
    assert found.ready[1].numbers[0] == 3


def test_who_is_ready_twice_is_no_rank(ends: tuple[Wire, Wire, socket.socket]) -> None:
    here, there, _ = ends
    found = Controls(Seat(0, 2, "127.0.0.1", 1), {1: here})
    for _ in range(2):
        Message(Op.READY).send(there)
    with pytest.raises(Said, match=r"rank 1 \(b\) sends what it was not asked for"):
        look_on(found)


def test_who_is_silent_is_named(ends: tuple[Wire, Wire, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, _ = ends
    monkeypatch.setattr(controls_module, "SILENCE_S", 0.5)
    found = Controls(Seat(0, 2, "127.0.0.1", 1), {1: here})
    Message(Op.BEAT).send(there)
    with pytest.raises(Said, match=r"^rank 1 \(b\) is silent$"):
        look_on(found)


def test_both_beat(ends: tuple[Wire, Wire, socket.socket]) -> None:
    here, there, _ = ends
    Controls(Seat(0, 2, "127.0.0.1", 1), {1: here})
    there.limit(10)
    assert receive(there, 0).op is Op.BEAT


def test_ranks_that_take_longer_than_silence_still_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third calls late: others, whose ring is closed, hear beats meanwhile."""
    monkeypatch.setattr(controls_module, "SILENCE_S", 2.5)
    monkeypatch.setattr(beats, "BEAT_S", 0.1)
    port, found, notes = free_port(), list[object](), list[str]()
    hellos = [Hello(rank, 3, "abc", {}, 512) for rank in range(3)]
    meetings = [Meeting(Seat(rank, 3, "127.0.0.1", port), KEY, 30.0, notes.append) for rank in range(3)]
    call_behind = joining._call_behind

    def late(meeting: Meeting, address: tuple[str, int], given: Controls) -> Wire:
        if meeting.seat.rank == 2:
            time.sleep(3.5)
        return call_behind(meeting, address, given)

    monkeypatch.setattr(joining, "_call_behind", late)

    def run(way: Callable[[Meeting, Hello], Joined], rank: int) -> None:
        try:
            joined = way(meetings[rank], hellos[rank])
        except PowerInferError as error:
            found.append(str(error))
            return
        if rank == 1:  # whose ring is closed: it listens to rank 0 alone
            joined.controls[0].limit(2.5)
            with suppress(Lost):
                for _ in range(3):
                    found.append(receive(joined.controls[0], 0).op)
        found.append(joined)

    threads = [threading.Thread(target=run, args=one) for one in ((gather, 0), (join, 1), (join, 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    joined = [one for one in found if isinstance(one, Joined)]
    for one in joined:
        for wire in (*one.controls.values(), one.before, one.behind):
            wire.close()
    assert len(joined) == 3, found
    assert found.count(Op.BEAT) == 3


def test_who_cannot_be_called_is_named_by_who_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by who waits for the call of somebody that waits himself: it would be over as soon."""
    port, found = free_port(), list[str]()
    hellos = [Hello(rank, 3, "abc", {}, 512) for rank in range(3)]
    meetings = [Meeting(Seat(rank, 3, "127.0.0.1", port), KEY, 2.0, lambda _: None) for rank in range(3)]
    calling = joining.call

    def call(address: Address, peer: str, seconds: float, look: Callable[[], None] | None = None) -> Wire:
        if not peer.startswith("rank 2"):
            return calling(address, peer, seconds, look)
        time.sleep(seconds + 0.5)
        raise Lost("does not answer")

    monkeypatch.setattr(joining, "call", call)

    def run(way: Callable[[Meeting, Hello], Joined], rank: int) -> None:
        try:
            way(meetings[rank], hellos[rank])
        except PowerInferError as error:
            found.append(str(error))

    threads = [threading.Thread(target=run, args=one) for one in ((gather, 0), (join, 1), (join, 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3
    assert all(line.startswith("rank 2 (127.0.0.1 port ") and line.endswith("does not answer") for line in found), found


def test_a_rank_says_why_it_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is, between its proof and its hello."""
    port, notes, raised = free_port(), list[str](), list[BaseException]()
    meetings = [Meeting(Seat(rank, 2, "127.0.0.1", port), KEY, 4.0, notes.append) for rank in range(2)]
    hello = Hello(0, 2, "abc", {}, 512)

    def no_memory(*given: object) -> None:
        raise MemoryError

    def first() -> None:
        with suppress(PowerInferError):
            gather(meetings[0], hello)

    thread = threading.Thread(target=first)
    listening = joining.listen_at

    def listen(host: str, port: int, flag: str, backlog: int) -> socket.socket:
        return no_memory() if flag == "--rank-port" else listening(host, port, flag, backlog)

    monkeypatch.setattr(joining, "listen_at", listen)
    thread.start()
    try:
        join(meetings[1], replace(hello, rank=1))
    except MemoryError as error:
        raised.append(error)
    thread.join(60)
    assert len(raised) == 1
    assert notes[0] == "warning: who called from 127.0.0.1 no memory was left: refused"
