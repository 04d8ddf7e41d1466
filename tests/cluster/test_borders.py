"""What crosses a border, and what is refused there before any of it is used."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from powerinfer_cli.cluster.borders import (
    Bounds,
    LinkType,
    PageChanges,
    dropped_x,
    read_step,
    receive_x,
    step_message,
    x_header,
    x_part,
)
from powerinfer_cli.cluster.messages import Message, Op, header
from powerinfer_cli.cluster.wires import Lost, Wire
from powerinfer_cli.kernels.cache import PAGE
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.pages import Extent, PageTable

N_EMBD = 8
EXTENT = Extent(4 * PAGE, n_sequences=2)
BOUNDS = Bounds(N_EMBD, most_tokens=PAGE, most_few=2, link=LinkType.F32)
X = np.random.default_rng(0).standard_normal((2 * PAGE, N_EMBD)).astype(np.float32)


def sent(
    parts: list[tuple[int, list[int], int]],
    *,
    stepwise: bool = False,
    asked: tuple[int, ...] = (),
    bounds: Bounds = BOUNDS,
) -> Message:
    """As it arrives."""
    pages = PageTable(EXTENT)
    batch = Batch.of(parts, stepwise, asked=asked)
    for segment in batch.segments:
        pages.extend(segment.sequence, segment.n_past + segment.n_tokens)
    changes = PageChanges(pages).take(segment.sequence for segment in batch.segments)
    return arrived(step_message(batch, changes, bounds))


def arrived(message: Message) -> Message:
    numbers = (*message.numbers, *(0,) * (6 - len(message.numbers)))
    return Message(message.op, numbers, (b"".join(bytes(part) for part in message.parts),))


@contextmanager
def wires() -> Iterator[tuple[Wire, Wire]]:
    """Two ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        one = socket.create_connection(door.getsockname())
        ends = Wire(one, "there"), Wire(door.accept()[0], "here")
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


def test_a_step_arrives_as_it_was() -> None:
    pages = PageTable(EXTENT)
    found = read_step(sent([(1, [5, 6, 7], PAGE - 1), (0, [8], 0)], asked=(1, 3)), BOUNDS, pages)
    assert [(s.sequence, s.begin, s.n_tokens, s.n_past) for s in found.segments] == [(1, 0, 3, PAGE - 1), (0, 3, 1, 0)]
    assert found.asked == (1, 3)
    assert found.hidden is None
    assert (pages.tables[1, :2] >= 0).all()
    assert len(set(pages.tables[pages.tables >= 0].tolist())) == 3


@pytest.mark.parametrize("usual", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("link", list(LinkType))
def test_x_arrives_as_it_was(link: LinkType, usual: float) -> None:
    """However well it is known when; twice, so that nothing of the second is taken with the first."""
    bounds = replace(BOUNDS, link=link)
    with wires() as (there, here):
        for x in (X[:3], X[3:6]):
            there.send(x_header(3, bounds), x_part(x, bounds))
        for x in (X[:3], X[3:6]):
            np.testing.assert_array_equal(receive_x(here, 3, bounds, usual), link.widened(link.narrowed(x)))


def test_a_step_that_fails_has_no_x() -> None:
    with wires() as (there, here):
        there.send(*dropped_x(3, BOUNDS).whole)
        assert receive_x(here, 3, BOUNDS) is None
        there.send(x_header(1, BOUNDS), x_part(X[:1], BOUNDS))
        np.testing.assert_array_equal(receive_x(here, 1, BOUNDS), X[:1])


@pytest.mark.parametrize("usual", [0.0, 0.01])
@pytest.mark.parametrize(
    "words",
    [
        header(Op.X, (), BOUNDS.x_bytes(1)),
        header(Op.X, (7,), BOUNDS.x_bytes(2)),
        header(Op.END, (), 0),
        bytes(64),
    ],
    ids=["size", "numbers", "kind", "none"],
)
def test_no_x(words: bytes, usual: float) -> None:
    """Said as soon as the header has come: what is behind it may never."""
    with wires() as (there, here):
        there.send(words)
        with pytest.raises(Lost, match="was not asked for"):
            receive_x(here, 2, BOUNDS, usual)


@pytest.mark.parametrize("usual", [0.0, 0.01])
def test_who_ends_before_x(usual: float) -> None:
    with wires() as (there, here):
        there.end()
        with pytest.raises(Lost, match="has ended"):
            receive_x(here, 2, BOUNDS, usual)


@pytest.mark.parametrize("asked", [(1, 1), (1, 0), (-1,), (2,)])
def test_rows_that_are_none(asked: tuple[int, ...]) -> None:
    with pytest.raises(Lost, match="tokens that are none"):
        read_step(sent([(0, [1, 2], 0)], asked=asked), BOUNDS, PageTable(EXTENT))


def test_only_pages_that_changed_are_told() -> None:
    pages = PageTable(EXTENT)
    changes = PageChanges(pages)
    pages.extend(0, 3)
    assert len(changes.take([0, 1])) == 1
    pages.extend(0, 4)
    assert len(changes.take([0, 1])) == 0
    pages.resize(0, 0)
    assert changes.take([0]).tolist() == [[0, 0, -1]]


def test_ids_come_where_layers_get_inputs_by_them() -> None:
    bounds, batch = replace(BOUNDS, n_vocab=9), Batch.of([(0, [5, 8], 0)])
    pages = PageTable(EXTENT)
    pages.extend(0, 2)
    message = arrived(step_message(batch, PageChanges(pages).take([0]), bounds))
    assert read_step(message, bounds, PageTable(EXTENT)).ids.tolist() == [5, 8]
    with pytest.raises(Lost, match="tokens that are none"):
        read_step(message, replace(bounds, n_vocab=8), PageTable(EXTENT))
    with pytest.raises(Lost, match="of another size"):
        read_step(message, BOUNDS, PageTable(EXTENT))


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 9), (0, -1), (1, 1), (2, 7), (2, 0), (3, -4), (3, 10**6), (4, 9)],
    ids=["sequence", "negative", "begin", "tokens", "none", "before", "too long", "counted"],
)
def test_segments_that_are_none(place: int, value: int) -> None:
    message = sent([(0, [1, 2], 0)])
    payload = bytearray(message.payload)
    payload[8 * place : 8 * place + 8] = int(value).to_bytes(8, "little", signed=True)
    with pytest.raises(Lost):
        read_step(Message(Op.STEP, message.numbers, (payload,)), BOUNDS, PageTable(EXTENT))


@pytest.mark.parametrize("change", [(5, 0, 0), (0, 99, 0), (0, 0, 99), (0, 0, -7), (0, 0, -1)])
def test_pages_that_are_none(change: tuple[int, int, int]) -> None:
    message = sent([(0, [1, 2], 0)])
    payload = bytearray(message.payload)
    payload[40:52] = np.array(change, "<i4").tobytes()
    with pytest.raises(Lost):
        read_step(Message(Op.STEP, message.numbers, (payload,)), BOUNDS, PageTable(EXTENT))


@pytest.mark.parametrize(
    "numbers",
    [
        (1, 1, PAGE + 1, 0, 0),
        (1, 1, 1, 0, 0),
        (0, 1, 2, 0, 0),
        (3, 1, 2, 0, 0),
        (1, 99, 2, 0, 0),
        (1, 1, 2, 0, 1),
        (1, 1, 2, 0, 3),
    ],
)
def test_counts_that_are_not_within_bounds(numbers: tuple[int, ...]) -> None:
    message = sent([(0, [1, 2], 0)])
    with pytest.raises(Lost):
        read_step(Message(Op.STEP, (*numbers, 0), message.parts), BOUNDS, PageTable(EXTENT))


def test_more_stepwise_tokens_than_there_is_a_program_for() -> None:
    with pytest.raises(Lost):
        read_step(sent([(0, [1, 2, 3], 0)], stepwise=True), BOUNDS, PageTable(EXTENT))


def test_one_sequence_twice() -> None:
    message = sent([(0, [1], 0), (1, [2], 0)])
    payload = bytearray(message.payload)
    payload[40:48] = bytes(8)
    with pytest.raises(Lost):
        read_step(Message(Op.STEP, message.numbers, (payload,)), BOUNDS, PageTable(EXTENT))


def test_bf16_is_torchs() -> None:
    odd = np.array([[1 + 2**-8, 1 + 3 * 2**-8, -(2.0**-130), 0.0, 3e38, -1.5, 65504, 1 / 3]], np.float32)
    x = np.concatenate([X[:3], odd])
    wanted = torch.from_numpy(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(LinkType.BF16.widened(LinkType.BF16.narrowed(x)), wanted)
