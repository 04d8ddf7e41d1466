"""Where the tokens of a batch are, in their sequences and in the cache: as one device's kernels are told."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.pages import Extent, PageTable, WindowPages

__all__ = ["Places", "places_numbers"]


def places_numbers(n_tokens: int, extent: Extent, *, apart: bool) -> int:
    """How many numbers tell of so many tokens: positions and sequences; cells, and again for layers with a window; and
    pages, of all sequences, or, apart, of each token's.
    """
    rows = n_tokens if apart else extent.n_sequences
    kinds = 1 if extent.window is None else 2
    return (2 + kinds) * n_tokens + rows * kinds * extent.longest


@dataclass(frozen=True, eq=False)
class _Own:
    """A segment of a batch. `n_past` and `sequence` int64 [1] and `pages` int64 [pages] are on the device; limit:
    attention's.
    """

    begin: int
    end: int
    n_past: Tensor
    sequence: Tensor
    pages: Tensor
    limit: int | None


class _Cached:
    """Where a batch's tokens are in caches of one kind: `cells` int64 [tokens], pages int64 [rows, pages], and
    `segments` on the host.
    """

    def __init__(self, table: PageTable | WindowPages, cells: Tensor, pages: Tensor) -> None:
        self.table, self.cells, self.pages = table, cells, pages
        self.segments: tuple[_Own, ...] = ()

    def cells_of(self, batch: Batch) -> npt.NDArray[np.int64]:
        """[T]"""
        own = [self.table.cells(s.sequence, s.n_past, s.n_past + s.n_tokens) for s in batch.segments]
        return np.concatenate(own)


class Places:
    """Where a batch's tokens are: on the device, and as segments on the host.

    positions and sequences int64 [tokens]; cells, and pages, in caches of either kind. Apart, each token is a segment,
    with the pages of its sequence beside it: so nothing but what the device reads depends on whose tokens they are.
    """

    def __init__(self, n_tokens: int, pages: PageTable, device: torch.device, *, apart: bool) -> None:
        self._apart, extent = apart, pages.extent
        self.numbers = torch.zeros(places_numbers(n_tokens, extent, apart=apart), dtype=torch.int64, device=device)
        tables: list[PageTable | WindowPages] = [pages] if pages.windowed is None else [pages, pages.windowed]
        self._tokens = self.numbers[: (2 + len(tables)) * n_tokens].view(-1, n_tokens)
        self.positions, self._sequences, *cells = self._tokens
        rows = self.numbers[self._tokens.numel() :].view(-1, len(tables), extent.longest)
        self._cached = [
            _Cached(table, own, rows[:, i]) for i, (table, own) in enumerate(zip(tables, cells, strict=True))
        ]
        if apart:
            for one in self._cached:
                one.segments = tuple(self._own(one, t, t + 1, t, None) for t in range(n_tokens))

    def cached(self, window: int | None) -> _Cached:
        """In the cache of a layer with such a window, or without one."""
        return self._cached[0 if window is None else -1]

    def of(self, batch: Batch) -> Tensor:
        """What `numbers` have to begin with for a batch, in main memory; `segments` are the batch's from now on."""
        tokens = np.zeros(self._tokens.shape, np.int64)
        sequences = np.repeat([s.sequence for s in batch.segments], [s.n_tokens for s in batch.segments])
        cells = (one.cells_of(batch) for one in self._cached)
        tokens[:, : len(batch)] = np.stack([batch.positions, sequences, *cells])
        rows = np.stack([one.table.tables for one in self._cached], 1)
        if self._apart:
            rows = rows[sequences]
        else:
            for one in self._cached:
                one.segments = tuple(
                    self._own(one, s.begin, s.end, s.sequence, s.n_past + s.n_tokens) for s in batch.segments
                )
        return torch.from_numpy(np.concatenate((tokens.ravel(), rows.ravel().astype(np.int64))))

    def _own(self, cached: _Cached, begin: int, end: int, row: int, limit: int | None) -> _Own:
        first = slice(begin, begin + 1)
        return _Own(begin, end, self.positions[first], self._sequences[first], cached.pages[row], limit)
