"""Which pages of the KV cache hold which sequence's positions.

A page is PAGE positions of every layer. Position p of a sequence lies in cell pages[p // PAGE] * PAGE + p % PAGE, so
that sequences grow and shrink without moving, and share one budget where they may. Layers with a window have pages of
their own, which hold no more than it needs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import PAGE

__all__ = ["NONE", "Cells", "Extent", "Held", "PageTable", "WindowPages", "moves_in_parts"]

Cells: TypeAlias = npt.NDArray[np.int64]

NONE = -1  # no page
MOVED = 256  # positions at a time


@dataclass(frozen=True)
class Extent:
    """How much a cache has to hold: n_ctx tokens, which n_sequences share where `unified`, or have a part each of.

    window: of layers that keep only what they need, the longest; None: every layer keeps everything. most_tokens: of
    one sequence in a batch.
    """

    n_ctx: int
    n_sequences: int = 1
    unified: bool = False
    window: int | None = None
    most_tokens: int = 1

    @property
    def n_ctx_sequence(self) -> int:
        """The most tokens of one sequence."""
        return self.n_ctx if self.unified else self.n_ctx // self.n_sequences

    @property
    def longest(self) -> int:
        """Pages of a sequence that is full."""
        return math.ceil(self.n_ctx_sequence / PAGE)

    @property
    def n_pages(self) -> int:
        """Of layers that keep everything. Each sequence may leave its last page unfilled, so that sharing needs a page
        more for every other sequence.
        """
        return self.longest + self.n_sequences - 1 if self.unified else self.n_sequences * self.longest

    @property
    def turns(self) -> int:
        """Pages of a sequence in layers with a window: as many as the window and a batch behind it may span. 0: these
        would be more than all sequences have anyway.
        """
        if self.window is None:
            return 0
        span = self.window - 1 + min(self.most_tokens, self.n_ctx)
        needed = (span + PAGE - 2) // PAGE + 1
        return needed if self.n_sequences * needed < self.n_pages else 0

    def n_cells(self, window: int | None) -> int:
        """Positions that the cache of a layer with such a window, or without one, has to have."""
        return PAGE * (self.n_sequences * self.turns if window is not None and self.turns else self.n_pages)


@dataclass(frozen=True)
class Held:
    """The cells of what is kept of a sequence, by layers without and with a window."""

    whole: Cells
    windowed: Cells

    def of(self, window: int | None) -> Cells:
        return self.whole if window is None else self.windowed


class PageTable:
    """`tables` int32 [n_sequences, pages of the longest sequence]: pages by order, NONE behind the last.

    `windowed`: the pages of layers that keep only what a window needs, if there are such.
    """

    def __init__(self, extent: Extent) -> None:
        self.extent = extent
        self.tables = np.full((extent.n_sequences, extent.longest), NONE, np.int32)
        self._lengths = [0] * extent.n_sequences
        self._free = list(range(extent.n_pages - 1, -1, -1))  # the lowest is taken first
        self.windowed = None if extent.window is None else WindowPages(self, extent.window)

    @property
    def n_ctx(self) -> int:
        return self.extent.n_ctx

    @property
    def n_sequences(self) -> int:
        return self.extent.n_sequences

    @property
    def n_ctx_sequence(self) -> int:
        """The most tokens of one sequence."""
        return self.extent.n_ctx_sequence

    @property
    def n_used(self) -> int:
        """Tokens of all sequences."""
        return sum(self._lengths)

    def of(self, window: int | None) -> "PageTable | WindowPages":
        """The pages of a layer with such a window, or without one."""
        return self if window is None or self.windowed is None else self.windowed

    def room(self, sequence: int) -> int:
        """How many tokens more this sequence may get now."""
        own = self.n_ctx_sequence - self._lengths[sequence]
        return min(own, self.n_ctx - self.n_used) if self.extent.unified else own

    def resize(self, sequence: int, length: int) -> None:
        """Take or free the pages for a sequence of so many tokens. It must have room for them."""
        if length - self._lengths[sequence] > self.room(sequence):
            raise ValueError(f"no room for {length} tokens in sequence {sequence}")
        row, before, after = self.tables[sequence], *(math.ceil(n / PAGE) for n in (self._lengths[sequence], length))
        for i in range(before, after):
            row[i] = self._free.pop()
        freed = row[after:before].tolist()
        row[after:before] = NONE
        self._free = sorted([*self._free, *freed], reverse=True) if freed else self._free
        self._lengths[sequence] = length

    def extend(self, sequence: int, length: int) -> None:
        """Take the pages for a batch that makes a sequence so long, of all layers."""
        self.resize(sequence, length)
        if self.windowed is not None:
            self.windowed.extend(sequence, length)

    def left(self, sequence: int, n: int) -> int:
        """How many of a sequence's first n tokens it can go on from: n, or 0 where a window has lost what it needs."""
        return n if self.windowed is None or self.windowed.reaches(sequence, n) else 0

    def held(self, sequence: int, n: int, begin: int) -> Held:
        """Where a sequence's first n tokens lie; in layers that keep what a window needs, those from `begin` on."""
        whole, windowed = self.cells(sequence, 0, n), self.windowed
        return Held(whole, whole if windowed is None else windowed.cells(sequence, begin, n))

    def cells(self, sequence: int, begin: int, end: int) -> Cells:
        """Where positions begin to end - 1 of a sequence lie, [end - begin]."""
        return _cells(self.tables[sequence], begin, end)

    def moves(self, sequence: int, n_past: int, n_keep: int, n_discard: int) -> tuple[Cells, Cells]:
        """From which cells to which others, as many, a sequence's tokens move when [n_keep, n_keep + n_discard) of
        n_past are dropped.
        """
        source = self.cells(sequence, n_keep + n_discard, n_past)
        return source, self.cells(sequence, n_keep, n_past - n_discard)


class WindowPages:
    """Pages of layers with a window. `tables` as those of the PageTable, but they never change.

    A sequence has its last positions in as many pages as a window and a batch may span: the i-th page of positions
    takes turns with those `turns` before and behind it. So single tokens leave more than the window, and the sequence
    can go back by about a batch. Where contexts are that short anyway, the pages are the PageTable's.
    """

    def __init__(self, whole: PageTable, window: int) -> None:
        self._window, self._turns = window, whole.extent.turns
        self._begins = [0] * whole.n_sequences  # positions below are gone
        self.tables = whole.tables
        if self._turns:
            n_sequences, longest = whole.tables.shape
            own = self._turns * np.arange(n_sequences)[:, None]
            self.tables = (own + np.arange(longest) % self._turns).astype(np.int32)

    def first(self, n: int) -> int:
        """The lowest position that the token behind n others sees."""
        return max(0, n - self._window + 1)

    def extend(self, sequence: int, length: int) -> None:
        """A sequence gets so long: what was where its last positions lie is gone."""
        self._begins[sequence] = max(self._begins[sequence], self.lowest(length))

    def begin(self, sequence: int) -> int:
        """The lowest position of a sequence that is there."""
        return self._begins[sequence]

    def reaches(self, sequence: int, n: int) -> bool:
        """Whether all that the token behind a sequence's first n sees is there."""
        return n == 0 or self._begins[sequence] <= self.first(n)

    def become(self, sequence: int, begin: int) -> None:
        """Positions from `begin` on are there, of a sequence that has others now."""
        self._begins[sequence] = begin

    def cells(self, sequence: int, begin: int, end: int) -> Cells:
        """As a PageTable's."""
        return _cells(self.tables[sequence], begin, end)

    def begin_behind(self, sequence: int, n_past: int, n_keep: int, n_discard: int) -> int:
        """The lowest position that is there once [n_keep, n_keep + n_discard) of n_past tokens are dropped."""
        begin, n = max(self._begins[sequence], self.lowest(n_past)), n_past - n_discard
        if begin > n_keep:
            begin = max(begin - n_discard, n_keep)
        return min(max(begin, self.lowest(n)), n)

    def moves(self, sequence: int, n_past: int, n_keep: int, n_discard: int) -> tuple[Cells, Cells]:
        """As a PageTable's; any cell may be in both."""
        begin = max(n_keep, self.begin_behind(sequence, n_past, n_keep, n_discard))
        source = self.cells(sequence, begin + n_discard, n_past)
        return source, self.cells(sequence, begin, n_past - n_discard)

    def lowest(self, length: int) -> int:
        """The lowest position whose page the last of so many positions leave alone."""
        return max(0, math.ceil(length / PAGE) - self._turns) * PAGE if self._turns else 0


def moves_in_parts(
    pages: PageTable | WindowPages, sequence: int, n_past: int, n_keep: int, n_discard: int
) -> Iterator[tuple[Cells, Cells]]:
    """Their `moves`, some at a time: a PageTable's go down, so that none is overwritten before it has moved. Pages by
    turns move as a whole: a position's new place may be that of one which has not moved yet.
    """
    sources, targets = pages.moves(sequence, n_past, n_keep, n_discard)
    size = MOVED if isinstance(pages, PageTable) else max(1, len(sources))
    for begin in range(0, len(sources), size):
        yield sources[begin : begin + size], targets[begin : begin + size]


def _cells(pages: npt.NDArray[np.int32], begin: int, end: int) -> Cells:
    positions = np.arange(begin, end)
    found: Cells = pages[positions // PAGE].astype(np.int64) * PAGE
    return found + positions % PAGE
