"""What crosses a border, and what is refused there before any of it is used."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from powerinfer_cli.cluster.borders import Bounds, LinkType, PageChanges, forward_message, read_forward
from powerinfer_cli.cluster.messages import Message, Op
from powerinfer_cli.cluster.wires import Lost
from powerinfer_cli.kernels.cache import PAGE
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.pages import Extent, PageTable

N_EMBD = 8
EXTENT = Extent(4 * PAGE, n_sequences=2)
BOUNDS = Bounds(N_EMBD, most_tokens=PAGE, most_few=2, link=LinkType.F32)
X = np.random.default_rng(0).standard_normal((2 * PAGE, N_EMBD)).astype(np.float32)


def sent(parts: list[tuple[int, list[int], int]], *, stepwise: bool = False) -> Message:
    """As it arrives."""
    pages = PageTable(EXTENT)
    batch = Batch.of(parts, stepwise)
    for segment in batch.segments:
        pages.extend(segment.sequence, segment.n_past + segment.n_tokens)
    changes = PageChanges(pages).take(segment.sequence for segment in batch.segments)
    return arrived(forward_message(batch, changes, X[: len(batch)], BOUNDS))


def arrived(message: Message) -> Message:
    numbers = (*message.numbers, *(0,) * (6 - len(message.numbers)))
    return Message(message.op, numbers, (b"".join(bytes(part) for part in message.parts),))


def test_a_step_arrives_as_it_was() -> None:
    pages = PageTable(EXTENT)
    found = read_forward(sent([(1, [5, 6, 7], PAGE - 1), (0, [8], 0)]), BOUNDS, pages)
    assert [(s.sequence, s.begin, s.n_tokens, s.n_past) for s in found.segments] == [(1, 0, 3, PAGE - 1), (0, 3, 1, 0)]
    np.testing.assert_array_equal(found.hidden, X[:4])
    assert (pages.tables[1, :2] >= 0).all()
    assert len(set(pages.tables[pages.tables >= 0].tolist())) == 3


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
    message = arrived(forward_message(batch, PageChanges(pages).take([0]), X[:2], bounds))
    found = read_forward(message, bounds, PageTable(EXTENT))
    assert found.ids.tolist() == [5, 8]
    np.testing.assert_array_equal(found.hidden, X[:2])
    with pytest.raises(Lost, match="tokens that are none"):
        read_forward(message, replace(bounds, n_vocab=8), PageTable(EXTENT))
    with pytest.raises(Lost, match="of another size"):
        read_forward(message, BOUNDS, PageTable(EXTENT))


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
        read_forward(Message(Op.FORWARD, message.numbers, (payload,)), BOUNDS, PageTable(EXTENT))


@pytest.mark.parametrize("change", [(5, 0, 0), (0, 99, 0), (0, 0, 99), (0, 0, -7), (0, 0, -1)])
def test_pages_that_are_none(change: tuple[int, int, int]) -> None:
    message = sent([(0, [1, 2], 0)])
    payload = bytearray(message.payload)
    payload[40:52] = np.array(change, "<i4").tobytes()
    with pytest.raises(Lost):
        read_forward(Message(Op.FORWARD, message.numbers, (payload,)), BOUNDS, PageTable(EXTENT))


@pytest.mark.parametrize("numbers", [(1, 1, PAGE + 1, 0), (0, 1, 2, 0), (3, 1, 2, 0), (1, 99, 2, 0), (1, 1, 1, 0)])
def test_counts_that_are_not_within_bounds(numbers: tuple[int, ...]) -> None:
    message = sent([(0, [1, 2], 0)])
    with pytest.raises(Lost):
        read_forward(Message(Op.FORWARD, (*numbers, 0, 0), message.parts), BOUNDS, PageTable(EXTENT))


def test_more_stepwise_tokens_than_there_is_a_program_for() -> None:
    with pytest.raises(Lost):
        read_forward(sent([(0, [1, 2, 3], 0)], stepwise=True), BOUNDS, PageTable(EXTENT))


def test_one_sequence_twice() -> None:
    message = sent([(0, [1], 0), (1, [2], 0)])
    payload = bytearray(message.payload)
    payload[40:48] = bytes(8)
    with pytest.raises(Lost):
        read_forward(Message(Op.FORWARD, message.numbers, (payload,)), BOUNDS, PageTable(EXTENT))


def test_bf16_is_torchs() -> None:
    odd = np.array([[1 + 2**-8, 1 + 3 * 2**-8, -(2.0**-130), 0.0, 3e38, -1.5, 65504, 1 / 3]], np.float32)
    x = np.concatenate([X[:3], odd])
    wanted = torch.from_numpy(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(LinkType.BF16.widened(LinkType.BF16.narrowed(x)), wanted)
