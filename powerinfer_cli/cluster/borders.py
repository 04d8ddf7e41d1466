"""What crosses a border in a step: first whose tokens are to come and what changed in the page table, so that each rank
is prepared when it gets x; then x.
"""

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import assert_never

import numpy as np
import numpy.typing as npt

from powerinfer_cli.cluster.messages import DROPPED, Coming, Message, Op, header
from powerinfer_cli.cluster.wires import Lost, Part, Wire
from powerinfer_cli.kernels.cache import PAGE
from powerinfer_cli.runtime.batch import Batch, BatchKind, Segment
from powerinfer_cli.runtime.context.pages import NONE, PageTable

__all__ = [
    "Bounds",
    "LinkType",
    "PageChanges",
    "check_pages",
    "dropped_x",
    "read_changes",
    "read_step",
    "receive_x",
    "step_message",
    "x_header",
    "x_part",
]

Floats = npt.NDArray[np.float32]
SEGMENT = struct.Struct("<5q")  # sequence, place in the batch, tokens, tokens before, counted
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

    def step_bytes(self, pages: PageTable) -> int:
        """Of the largest step, without x."""
        segments = pages.n_sequences * SEGMENT.size
        changes = pages.tables.size * CHANGE[0].itemsize * CHANGE[1]
        return segments + changes + 2 * self.most_tokens * ID.itemsize

    def x_bytes(self, n_tokens: int) -> int:
        return n_tokens * self.n_embd * self.link.dtype.itemsize


class PageChanges:
    """Which pages of some sequences are others than the other ranks know."""

    def __init__(self, pages: PageTable) -> None:
        self._pages, self._known = pages, np.full_like(pages.tables, NONE)

    def take(self, sequences: Iterable[int]) -> npt.NDArray[np.int32]:
        """[n, 3]: sequence, place, page; they count as told."""
        found = [np.empty((0, 3), np.int32)]
        for sequence in sequences:
            now, known = self._pages.tables[sequence], self._known[sequence]
            if now.data == known.data:  # as for most tokens
                continue
            places = np.flatnonzero(now != known).astype(np.int32)
            known[places] = now[places]
            found.append(np.stack([np.full_like(places, sequence), places, now[places]], axis=1))
        return np.concatenate(found) if len(found) > 1 else found[0]


def _take_changes(pages: PageTable, changes: npt.NDArray[np.int32]) -> None:
    """Into this rank's table. Raises Lost: there are no such places or pages."""
    sequences, places, found = changes.T
    n_sequences, longest = pages.tables.shape
    inside = (sequences >= 0) & (sequences < n_sequences) & (places >= 0) & (places < longest)
    if not (inside & (found >= NONE) & (found < pages.extent.n_pages)).all():
        raise Lost("sends pages that are none")
    pages.tables[sequences, places] = found


def read_changes(pages: PageTable, sent: Part) -> None:
    """The same of bytes."""
    if not len(sent):
        return
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


def step_message(batch: Batch, changes: npt.NDArray[np.int32], bounds: Bounds) -> Message:
    """All of a step but x."""
    segments = [SEGMENT.pack(s.sequence, s.begin, s.n_tokens, s.n_past, s.counted) for s in batch.segments]
    ids = batch.ids.astype(ID, copy=False) if bounds.n_vocab else batch.ids[:0]
    parts = [part.data.cast("B") for part in (changes, ids) if part.size]
    asked = struct.pack(f"<{len(batch.asked)}i", *batch.asked)
    numbers = len(segments), len(changes), len(batch), int(batch.stepwise), len(batch.asked)
    return Message(Op.STEP, numbers, (b"".join(segments), *parts, asked))


def read_step(message: Message, bounds: Bounds, pages: PageTable) -> Batch:
    """The same batch, whose x is still to come; its pages are in this rank's table.

    Raises Lost: it is not within bounds.
    """
    n_segments, n_changes, n_tokens, stepwise, n_asked, _ = message.numbers
    few = bounds.most_few if stepwise else bounds.most_tokens
    if not (0 < n_segments <= pages.n_sequences and 0 < n_tokens <= few and 0 <= n_changes <= pages.tables.size):
        raise Lost("sends a step that is none")
    counts = (
        n_segments * SEGMENT.size,
        n_changes * CHANGE[1] * CHANGE[0].itemsize,
        (n_tokens if bounds.n_vocab else 0) * ID.itemsize,
        n_asked * ID.itemsize,
    )
    if not 0 <= n_asked <= n_tokens or len(message.payload) != sum(counts):
        raise Lost("sends a step of another size")
    sent, parts = memoryview(message.payload), list[memoryview]()
    for n in counts:
        parts.append(sent[:n])
        sent = sent[n:]
    ids = _below(parts[2], bounds.n_vocab) if bounds.n_vocab else np.zeros(n_tokens, np.int32)
    asked = tuple(_below(parts[3], n_tokens).tolist())
    if any(one >= other for one, other in pairwise(asked)):
        raise Lost("asks for tokens that are none")
    read_changes(pages, parts[1])
    found = tuple(Segment(*numbers) for numbers in SEGMENT.iter_unpack(parts[0]))
    at = 0
    for one in found:
        if one.begin != at or one.n_tokens < 1 or one.n_past < 0 or not 0 <= one.counted <= one.n_tokens:
            raise Lost("sends sequences that are none")
        check_pages(pages, one.sequence, one.n_past + one.n_tokens)
        at = one.end
    batch = Batch(ids, found, bool(stepwise), asked=asked)
    known = len({one.sequence for one in found}) == n_segments and at == n_tokens
    if not known or (batch.kind is BatchKind.FEW and n_tokens > bounds.most_few):
        raise Lost("sends sequences that are none")
    return batch


def _below(sent: memoryview, most: int) -> npt.NDArray[np.int32]:
    """Numbers of tokens, or ids. Raises Lost: there are no such ones."""
    found = np.frombuffer(sent, ID).astype(np.int32)
    if ((found < 0) | (found >= most)).any():
        raise Lost("sends tokens that are none")
    return found


def x_header(n_tokens: int, bounds: Bounds, *numbers: int) -> bytes:
    """What is sent before x."""
    return header(Op.X, numbers, bounds.x_bytes(n_tokens))


def x_part(x: Floats, bounds: Bounds) -> memoryview:
    """x [T, n_embd]: what the next layer reads."""
    return bounds.link.narrowed(x).data.cast("B")


def dropped_x(n_tokens: int, bounds: Bounds) -> Message:
    """In place of it, of the same size: there will be none."""
    return Message(Op.X, (DROPPED,), (bytes(bounds.x_bytes(n_tokens)),))


def receive_x(wire: Wire, n_tokens: int, bounds: Bounds, usual: float = 0.0) -> Floats | None:
    """x of the step that was told of; None: it was dropped. usual: as a wire's. Raises Lost: something else came."""
    coming = Coming(Op.X, bounds.x_bytes(n_tokens))
    x = np.frombuffer(coming.payload, bounds.link.dtype).reshape(n_tokens, bounds.n_embd)
    return bounds.link.widened(x) if coming.receive(wire, usual) else None
