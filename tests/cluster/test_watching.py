"""A rank that goes ends the others, with a line that names it."""

import socket
import threading
import time
from contextlib import suppress
from queue import SimpleQueue

import numpy as np
import pytest

from powerinfer_cli.cluster import watching
from powerinfer_cli.cluster.messages import Message, Op, header, receive
from powerinfer_cli.cluster.watching import Members, Watch
from powerinfer_cli.cluster.wires import Lost, Wire
from powerinfer_cli.errors import PowerInferError


def pair(there: str) -> tuple[Wire, Wire]:
    """Two ends; what the first calls the other."""
    one, other = socket.socketpair()
    return _Named(one, there), _Named(other, "rank 0 (a)")


class _Named(Wire):
    """A pair of sockets has no addresses, and no Nagle."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self._sock, self.peer, self._sending = sock, peer, threading.Lock()


class Group:
    """Rank 0's side, and the other ends, which send no beats."""

    def __init__(self) -> None:
        self.failures: SimpleQueue[str] = SimpleQueue()
        (here_1, self.control_1), (here_2, self.control_2) = pair("b"), pair("c")
        (behind, self.chain), (before, self.last) = pair("rank 1 (b)"), pair("rank 2 (c)")
        self.members = Members({1: here_1, 2: here_2}, behind, before, 1000, self.failures.put)

    def close(self) -> None:
        for wire in (self.control_1, self.control_2, self.chain, self.last):
            wire.close()
        self.members.end()


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    monkeypatch.setattr(watching, "SILENCE_S", 60.0)
    found = Group()
    yield found
    found.close()


def test_who_has_ended_is_named_to_all(group: Group) -> None:
    group.control_2.close()
    assert group.failures.get(timeout=20) == "rank 2 (c) has ended"
    for _ in range(2):  # steps of two groups of texts, say
        with pytest.raises(PowerInferError, match=r"rank 2 \(c\) has ended"):
            group.members.reply(1)
    with pytest.raises(PowerInferError, match=r"rank 2 \(c\) has ended"):
        group.members.send(Message(Op.LOGITS))
    told = receive(group.control_1, 1000)
    while told.op is Op.BEAT:
        told = receive(group.control_1, 1000)
    assert (told.op, bytes(told.payload)) == (Op.GONE, b"rank 2 (c) has ended")


def test_rows_come_to_who_waits_for_them_in_any_order(group: Group) -> None:
    asked = [group.members.rows.ask(n, 3) for n in (2, 1)]
    wanted = [np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([[7, 8, 9]])]
    for rows in wanted:
        group.last.send(header(Op.ROWS, (), rows.nbytes), rows.data.cast("B"))
    for one, rows in zip(reversed(asked), reversed(wanted), strict=True):
        np.testing.assert_array_equal(group.members.take(one), rows)


def test_rows_are_received_where_a_step_is_not(group: Group) -> None:
    """The last rank reads no step before it has sent all of these; more than connections hold."""
    rows = np.ones((1, 4 << 20), np.float32)
    step, asked = Message(Op.X, (), (bytes(16 << 20),)), group.members.rows.ask(*rows.shape)

    def answer() -> None:
        group.last.send(header(Op.ROWS, (), rows.nbytes), rows.data.cast("B"))
        receive(group.chain, 16 << 20)

    last = threading.Thread(target=answer, daemon=True)
    last.start()
    sending = threading.Thread(target=group.members.send, args=(step,), daemon=True)
    sending.start()
    sending.join(50)
    assert not sending.is_alive()
    last.join(50)
    np.testing.assert_array_equal(group.members.take(asked), rows)


def test_a_rank_that_ends_while_rows_are_waited_for(group: Group) -> None:
    asked = group.members.rows.ask(1, 3)
    threading.Timer(0.2, group.control_2.close).start()
    with pytest.raises(PowerInferError, match=r"rank 2 \(c\) has ended"):
        group.members.take(asked)


def test_a_rank_says_why_it_leaves(group: Group) -> None:
    Message(Op.LEAVING, (), (b"no memory for the model",)).send(group.control_1)
    assert group.failures.get(timeout=20) == "rank 1 (b) has ended: no memory for the model"


def test_who_was_lost_by_another_is_named(group: Group) -> None:
    """Rank 0 has it still: the way between the two is cut."""
    Message(Op.LOST, (), (b"rank 1 (b) is silent",)).send(group.control_2)
    assert group.failures.get(timeout=20) == "rank 1 (b) is silent"
    for control in (group.control_1, group.control_2):
        told = receive(control, 1000)
        while told.op is Op.BEAT:
            told = receive(control, 1000)
        assert (told.op, bytes(told.payload)) == (Op.GONE, b"rank 1 (b) is silent")


def test_rank_0_is_told_at_once_who_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its word is waited for behind that, rather than before."""
    monkeypatch.setattr(watching, "NAMING_S", 30.0)
    rank_0, control = pair("rank 2 (c)")
    watch, said = Watch(control, [], print), list[str]()
    waiting = threading.Thread(target=lambda: said.append(watch.reason("rank 1 (b) is silent")))
    begin = time.monotonic()
    waiting.start()
    told = receive(rank_0, 1000)
    while told.op is Op.BEAT:
        told = receive(rank_0, 1000)
    assert (told.op, bytes(told.payload)) == (Op.LOST, b"rank 1 (b) is silent")
    assert time.monotonic() - begin < 10
    Message(Op.GONE, (), (b"rank 1 (b) has ended",)).send(rank_0)
    waiting.join(20)
    assert said == ["rank 1 (b) has ended"]
    for wire in (rank_0, control):
        wire.close()


def test_what_is_no_message(group: Group) -> None:
    group.control_1.send(bytes(64))
    assert group.failures.get(timeout=20) == "rank 1 (b) sends what is no message of a rank"


def test_a_reply_that_is_too_large(group: Group) -> None:
    Message(Op.REPLY, (), (bytes(1001),)).send(group.control_1)
    assert group.failures.get(timeout=20) == "rank 1 (b) sends what is no message of a rank"


def test_who_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SILENCE_S", 0.3)
    for _ in range(20):
        named, pause = _silent()
        if pause < 0.25:  # else this machine is so busy that the other rank was silent, too
            break
    assert named == "rank 2 (c) is silent"


def _silent() -> tuple[str, float]:
    """Who is named where only rank 1 sends beats, and the longest pause between these."""
    last, pauses, named = time.monotonic(), list[float](), threading.Event()
    group = Group()

    def beat() -> None:
        nonlocal last
        while not named.wait(0.05):
            with suppress(Lost):  # it is rank 1 that was named
                Message(Op.BEAT).send(group.control_1)
            pauses.append(time.monotonic() - last)
            last += pauses[-1]

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        line, end = group.failures.get(timeout=20), time.monotonic()
    finally:
        named.set()
        thread.join()
        group.close()
    return line, max([*pauses, end - last])


@pytest.mark.parametrize("gone", [True, False])
def test_another_rank_is_told_or_sees_it(monkeypatch: pytest.MonkeyPatch, gone: bool) -> None:
    """Whoever waits at a wire wakes up, and knows why."""
    monkeypatch.setattr(watching, "NAMING_S", 30.0)
    rank_0, control = pair("rank 1 (b)")
    before, waiting = pair("rank 1 (b)")
    watch = Watch(control, [waiting], print)
    if gone:
        Message(Op.GONE, (), (b"rank 2 (c) has ended",)).send(rank_0)
    else:
        rank_0.end()
    with pytest.raises(Lost):
        waiting.receive(1)
    begin = time.monotonic()
    assert watch.reason("of its own") == ("rank 2 (c) has ended" if gone else "rank 0 (a) has ended")
    assert time.monotonic() - begin < 10
    for wire in (rank_0, control, before, waiting):
        wire.close()


def test_its_own_words_where_rank_0_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "NAMING_S", 0.1)
    rank_0, control = pair("rank 1 (b)")
    watch = Watch(control, [], print)
    assert watch.reason("rank 2 has ended") == "rank 2 has ended"
    told = receive(rank_0, 1000)
    while told.op is Op.BEAT:
        told = receive(rank_0, 1000)
    assert (told.op, bytes(told.payload)) == (Op.LOST, b"rank 2 has ended")
    for wire in (rank_0, control):
        wire.close()


@pytest.mark.parametrize("gone", [True, False])
def test_who_waits_nowhere_is_ended(gone: bool) -> None:
    """A rank that loads or compiles, where rank 0 goes or says that another has."""
    rank_0, control = pair("rank 1 (b)")
    failures: SimpleQueue[str] = SimpleQueue()
    Watch(control, [], failures.put)
    if gone:
        Message(Op.GONE, (), (b"rank 2 (c) has ended",)).send(rank_0)
    else:
        rank_0.end()
    assert failures.get(timeout=20) == ("rank 2 (c) has ended" if gone else "rank 0 (a) has ended")
    for wire in (rank_0, control):
        wire.close()


def test_who_ends_as_asked_has_no_failure() -> None:
    rank_0, control = pair("rank 1 (b)")
    failures: SimpleQueue[str] = SimpleQueue()
    watch = Watch(control, [], failures.put)
    watch.end()
    time.sleep(0.2)
    assert failures.empty()
    for wire in (rank_0, control):
        wire.close()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (KeyboardInterrupt(), "it was interrupted"),
        (SystemExit(143), "it was terminated"),
        (PowerInferError("no file"), "no file"),
    ],
)
def test_why_it_leaves_is_said_in_words(error: BaseException, why: str) -> None:
    rank_0, control = pair("rank 1 (b)")
    Watch(control, [], print).leave(error)
    told = receive(rank_0, 1000)
    assert (told.op, bytes(told.payload)) == (Op.LEAVING, why.encode())
    for wire in (rank_0, control):
        wire.close()
