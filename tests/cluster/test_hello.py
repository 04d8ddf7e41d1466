"""What no rank says is refused, and its words steer no terminal."""

import json
from dataclasses import asdict, replace

import pytest

from powerinfer_cli.cluster.hello import Hello, Plan, difference
from powerinfer_cli.cluster.messages import Message, Op, words_of
from powerinfer_cli.cluster.wires import Lost, Said

FIRST = Hello(0, 2, "abc", {"-c": "512"}, 512)
OTHER = asdict(replace(FIRST, rank=1, port=5))


@pytest.mark.parametrize(
    "sent",
    [
        b"[" * 60000,
        json.dumps(OTHER | {"rank": 64}).encode(),
        json.dumps(OTHER | {"n_ranks": 10**4000}).encode(),
        json.dumps(OTHER | {"n_ctx": True}).encode(),
    ],
)
def test_no_hello(sent: bytes) -> None:
    with pytest.raises(Lost, match="says what no rank says"):
        Hello.of(Message(Op.HELLO, (), (sent,)))


def test_words_of_a_hello_are_printable() -> None:
    odd = OTHER | {"version": "\ud800\x1b[2J"}
    line = difference(FIRST, Hello.of(Message(Op.HELLO, (), (json.dumps(odd).encode(),))))
    assert line is not None
    assert line.startswith("has version ??[2J, rank 0 has")


@pytest.mark.parametrize("n_ctx", [0, 513, 1e30, True, "5", None])
def test_no_plan(n_ctx: object) -> None:
    for behind in (None, ["a", 5]):
        with pytest.raises(Lost, match="says what no rank says"):
            Plan.of(Message(Op.PLAN, (), (json.dumps({"n_ctx": n_ctx, "behind": behind}).encode(),)), 512)


@pytest.mark.parametrize("behind", [["\ud800", 5], ["a\0b", 5], ["a" * 256, 5], ["a", True], ["a", 0], ["a"], 5])
def test_no_plan_by_whom_it_calls(behind: object) -> None:
    with pytest.raises(Lost, match="says what no rank says"):
        Plan.of(Message(Op.PLAN, (), (json.dumps({"n_ctx": 512, "behind": behind}).encode(),)), 512)


def test_words_are_one_plain_line() -> None:
    gone = Message(Op.GONE, (), (b"\x1b[2Jbye\n\nerror: \xff forged" + b"a" * 9000,))
    assert words_of(gone).startswith("?[2Jbye error: \ufffd forgeda")
    assert len(words_of(gone)) <= 2000
    with pytest.raises(Said, match="bye error"):
        Plan.of(gone, 512)
