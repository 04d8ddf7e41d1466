"""What crosses a border in a step: whose tokens these are, what changed in the page table, and x."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import numpy as np
import numpy.typing as npt

from powerinfer_cli.cluster.messages import Message, Op
from powerinfer_cli.cluster.wires import Lost
from powerinfer_cli.kernels.cache import PAGE
from powerinfer_cli.runtime.batch import Batch, BatchKind, Segment
from powerinfer_cli.runtime.context.pages import NONE, PageTable

__all__ = ["Bounds", "LinkType", "PageChanges", "check_pages", "forward_message", "read_changes", "read_forward"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
SEGMENT = np.dtype("<i8"), 5  # sequence, place in the batch, tokens, tokens before, counted
ID = np.dtype("<i4")
CHANGE = np.dtype("<i4"), 3  # sequence, place, page


class LinkType(StrEnum):
    """Of x's numbers on the way. f32: results are one machine's to the bit; bf16: half the bytes."""

    F32 = "f32"
    BF16 = "bf16"

    @property
    def dtype(self) -> "np.dtype[np.generic]":
        match self:
            case LinkType.F32:
                return np.dtype("<f4")
            case LinkType.BF16:
                return np.dtype("<u2")
        assert_never(self)

    def narrowed(self, x: Floats) -> npt.NDArray[np.generic]:
        """x as it is sent: bf16 is the nearest, of two the even one."""
        match self:
            case LinkType.F32:
                return np.ascontiguousarray(x, "<f4")
            case LinkType.BF16:
                bits = np.ascontiguousarray(x, "<f4").view("<u4")
                halves: npt.NDArray[np.generic] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
                return halves
        assert_never(self)

    def widened(self, sent: npt.NDArray[np.generic]) -> Floats:
        """x [.., n_embd] of what `narrowed` gave."""
        match self:
            case LinkType.F32:
                return sent.astype(np.float32, copy=False)
            case LinkType.BF16:
                return (sent.astype(np.uint32) << 16).view(np.float32)
        assert_never(self)


@dataclass(frozen=True)
class Bounds:
    """What a step may have. most_few: tokens of a stepwise one. n_vocab: of tokens' ids, which come where layers get
    inputs by them; 0: none come.
    """

    n_embd: int
    most_tokens: int
    most_few: int
    link: LinkType
    n_vocab: int = 0

    @property
    def token_bytes(self) -> int:
        """Of one: its id, and x."""
        return (ID.itemsize if self.n_vocab else 0) + self.n_embd * self.link.dtype.itemsize

    def forward_bytes(self, pages: PageTable) -> int:
        """Of the largest step."""
        segments = pages.n_sequences * SEGMENT[0].itemsize * SEGMENT[1]
        changes = pages.tables.size * CHANGE[0].itemsize * CHANGE[1]
        return segments + changes + self.most_tokens * self.token_bytes


class PageChanges:
    """Which pages of some sequences are others than the next rank knows."""

    def __init__(self, pages: PageTable) -> None:
        self._pages, self._known = pages, np.full_like(pages.tables, NONE)

    def take(self, sequences: Iterable[int]) -> npt.NDArray[np.int32]:
        """[n, 3]: sequence, place, page; they count as told."""
        found = [np.empty((0, 3), np.int32)]
        for sequence in sequences:
            now, known = self._pages.tables[sequence], self._known[sequence]
            places = np.flatnonzero(now != known).astype(np.int32)
            known[places] = now[places]
            found.append(np.stack([np.full_like(places, sequence), places, now[places]], axis=1))
        return np.concatenate(found)


def _take_changes(pages: PageTable, changes: npt.NDArray[np.int32]) -> None:
    """Into this rank's table. Raises Lost: there are no such places or pages."""
    sequences, places, found = changes.T
    n_sequences, longest = pages.tables.shape
    inside = (sequences >= 0) & (sequences < n_sequences) & (places >= 0) & (places < longest)
    if not (inside & (found >= NONE) & (found < pages.extent.n_pages)).all():
        raise Lost("sends pages that are none")
    pages.tables[sequences, places] = found


def read_changes(pages: PageTable, sent: bytes | bytearray | memoryview) -> None:
    """The same of bytes."""
    size = CHANGE[0].itemsize * CHANGE[1]
    if len(sent) % size:
        raise Lost("sends pages that are none")
    _take_changes(pages, np.frombuffer(sent, CHANGE[0]).reshape(-1, CHANGE[1]))


def check_pages(pages: PageTable, sequence: int, length: int) -> None:
    """A sequence of so many tokens has all its pages. Raises Lost."""
    if not 0 <= sequence < pages.n_sequences or not 0 <= length <= pages.n_ctx_sequence:
        raise Lost("sends sequences that are none")
    if (pages.tables[sequence, : math.ceil(length / PAGE)] == NONE).any():
        raise Lost("sends tokens without pages")


def forward_message(batch: Batch, changes: npt.NDArray[np.int32], x: Floats, bounds: Bounds) -> Message:
    """x [T, n_embd]: what the next layer reads."""
    segments = [(s.sequence, s.begin, s.n_tokens, s.n_past, s.counted) for s in batch.segments]
    ids = batch.ids.astype(ID, copy=False) if bounds.n_vocab else batch.ids[:0]
    parts = np.array(segments, SEGMENT[0]), changes, ids, bounds.link.narrowed(x)
    numbers = len(segments), len(changes), len(batch), int(batch.stepwise)
    return Message(Op.FORWARD, numbers, tuple(part.data.cast("B") for part in parts if part.size))


def read_forward(message: Message, bounds: Bounds, pages: PageTable) -> Batch:
    """The same batch, with x as what comes with its tokens; its pages are in this rank's table.

    Raises Lost: it is not within bounds.
    """
    n_segments, n_changes, n_tokens, stepwise, *_ = message.numbers
    few = bounds.most_few if stepwise else bounds.most_tokens
    if not (0 < n_segments <= pages.n_sequences and 0 < n_tokens <= few and 0 <= n_changes <= pages.tables.size):
        raise Lost("sends a step that is none")
    counts = (
        n_segments * SEGMENT[1] * SEGMENT[0].itemsize,
        n_changes * CHANGE[1] * CHANGE[0].itemsize,
        n_tokens * bounds.token_bytes,
    )
    if len(message.payload) != sum(counts):
        raise Lost("sends a step of another size")
    sent = memoryview(message.payload)
    segments = np.frombuffer(sent[: counts[0]], SEGMENT[0]).reshape(n_segments, SEGMENT[1])
    of_tokens = sent[counts[0] + counts[1] :]
    ids, x = _ids(of_tokens, n_tokens, bounds.n_vocab), of_tokens[n_tokens * (ID.itemsize if bounds.n_vocab else 0) :]
    hidden = np.frombuffer(x, bounds.link.dtype).reshape(n_tokens, bounds.n_embd)
    read_changes(pages, sent[counts[0] : counts[0] + counts[1]])
    found = tuple(Segment(*map(int, numbers)) for numbers in segments)
    at = 0
    for one in found:
        if one.begin != at or one.n_tokens < 1 or one.n_past < 0 or not 0 <= one.counted <= one.n_tokens:
            raise Lost("sends sequences that are none")
        check_pages(pages, one.sequence, one.n_past + one.n_tokens)
        at = one.end
    batch = Batch(ids, found, bool(stepwise), bounds.link.widened(hidden))
    known = len({one.sequence for one in found}) == n_segments and at == n_tokens
    if not known or (batch.kind is BatchKind.FEW and n_tokens > bounds.most_few):
        raise Lost("sends sequences that are none")
    return batch


def _ids(sent: memoryview, n_tokens: int, n_vocab: int) -> npt.NDArray[np.int32]:
    """int32 [T], zeros where none come. Raises Lost: there are no such tokens."""
    if not n_vocab:
        return np.zeros(n_tokens, np.int32)
    ids = np.frombuffer(sent, ID, n_tokens).astype(np.int32)
    if (ids < 0).any() or (ids >= n_vocab).any():
        raise Lost("sends tokens that are none")
    return ids
