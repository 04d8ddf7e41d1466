"""Which pages of the KV cache hold which sequence's positions.

A page is PAGE positions of every layer. Position p of a sequence lies in cell pages[p // PAGE] * PAGE + p % PAGE, so
that sequences grow and shrink without moving, and share one budget where they may.
"""

import math

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import PAGE

__all__ = ["NONE", "PageTable", "pages_needed"]

NONE = -1  # no page


def pages_needed(n_ctx: int, n_sequences: int = 1, *, unified: bool = False) -> int:
    """Pages for a context of n_ctx tokens, shared by all sequences, or divided among them.

    Each sequence may leave its last page unfilled, so that sharing needs a page more for every other sequence.
    """
    if unified:
        return math.ceil(n_ctx / PAGE) + n_sequences - 1
    return n_sequences * math.ceil(n_ctx // n_sequences / PAGE)


class PageTable:
    """`tables` int32 [n_sequences, pages of the longest sequence]: pages by order, NONE behind the last."""

    def __init__(self, n_ctx: int, n_sequences: int = 1, *, unified: bool = False) -> None:
        """n_ctx: tokens of all sequences together."""
        self.n_ctx, self.n_sequences, self.unified = n_ctx, n_sequences, unified
        self.n_ctx_sequence = n_ctx if unified else n_ctx // n_sequences
        self.n_pages = pages_needed(n_ctx, n_sequences, unified=unified)
        self.tables = np.full((n_sequences, math.ceil(self.n_ctx_sequence / PAGE)), NONE, np.int32)
        self._lengths = [0] * n_sequences
        self._free = list(range(self.n_pages - 1, -1, -1))  # the lowest is taken first

    @property
    def n_cells(self) -> int:
        """Positions that the cache has to have."""
        return self.n_pages * PAGE

    @property
    def n_used(self) -> int:
        """Tokens of all sequences."""
        return sum(self._lengths)

    def room(self, sequence: int) -> int:
        """How many tokens more this sequence may get now."""
        own = self.n_ctx_sequence - self._lengths[sequence]
        return min(own, self.n_ctx - self.n_used) if self.unified else own

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

    def cells(self, sequence: int, begin: int, end: int) -> npt.NDArray[np.int64]:
        """Where positions begin to end - 1 of a sequence lie, [end - begin]."""
        positions = np.arange(begin, end)
        found: npt.NDArray[np.int64] = self.tables[sequence, positions // PAGE].astype(np.int64) * PAGE
        return found + positions % PAGE
