"""Where the tokens of a batch are, in their sequences and in the cache: as one device's kernels are told."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.pages import Extent, PageTable, WindowPages

__all__ = ["Places", "places_numbers"]


def places_numbers(n_tokens: int, extent: Extent) -> int:
    """How many numbers tell of so many tokens: positions and sequences; cells, and pages of all sequences, or of one
    token's; and these again for layers with a window.
    """
    rows = 1 if n_tokens == 1 else extent.n_sequences
    kinds = 1 if extent.window is None else 2
    return 2 * n_tokens + kinds * (n_tokens + rows * extent.longest)


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
    """Where a batch's tokens are in caches of one kind: `cells` int64 [tokens], and `segments` on the host."""

    def __init__(
        self, pages: PageTable | WindowPages, positions: Tensor, sequences: Tensor, numbers: Tensor, rows: int
    ) -> None:
        """positions, sequences, numbers: what the device is told."""
        self._pages, self._positions, self._sequences, self._numbers = pages, positions, sequences, numbers
        self.cells = numbers[: len(positions)]
        self._rows = numbers[len(positions) :].view(rows, -1)
        self._recorded = len(positions) == 1 and numbers.device.type == "cuda"
        one = _Own(0, 1, positions, sequences, self._rows[0], None)
        self.segments: tuple[_Own, ...] = (one,) if len(positions) == 1 else ()

    def of(self, batch: Batch) -> npt.NDArray[np.int64]:
        """What `numbers` have to be for a batch; from now on `segments` are the batch's."""
        n_tokens, single, tables = len(self._positions), len(self._positions) == 1, self._pages.tables
        wanted = np.zeros(len(self._numbers), np.int64)
        own = [self._pages.cells(s.sequence, s.n_past, s.n_past + s.n_tokens) for s in batch.segments]
        wanted[: len(batch)] = np.concatenate(own)
        wanted[n_tokens:] = (tables[batch.segments[0].sequence] if single else tables).ravel()
        if not self._recorded:
            self.segments = tuple(
                _Own(
                    s.begin,
                    s.end,
                    self._positions[s.begin : s.begin + 1],
                    self._sequences[s.begin : s.begin + 1],
                    self._rows[0 if single else s.sequence],
                    s.n_past + s.n_tokens,
                )
                for s in batch.segments
            )
        return wanted


class Places:
    """Where a batch's tokens are: on the device, and as segments on the host.

    positions and sequences int64 [tokens]; cells, and pages of the sequences, in caches of either kind. For one token
    they are what a recording reads: its sequence's pages come first.
    """

    def __init__(self, n_tokens: int, pages: PageTable, device: torch.device) -> None:
        rows = 1 if n_tokens == 1 else pages.n_sequences
        self.numbers = torch.zeros(places_numbers(n_tokens, pages.extent), dtype=torch.int64, device=device)
        self.positions, sequences = self.numbers[:n_tokens], self.numbers[n_tokens : 2 * n_tokens]
        kinds: list[PageTable | WindowPages] = [pages] if pages.windowed is None else [pages, pages.windowed]
        parts = self.numbers[2 * n_tokens :].chunk(len(kinds))
        self._cached = [
            _Cached(kind, self.positions, sequences, part, rows) for kind, part in zip(kinds, parts, strict=True)
        ]

    def cached(self, window: int | None) -> _Cached:
        """In the cache of a layer with such a window, or without one."""
        return self._cached[0 if window is None else -1]

    def of(self, batch: Batch) -> Tensor:
        """What `numbers` have to be for a batch, in main memory; from now on `segments` are the batch's."""
        tokens = np.zeros((2, len(self.positions)), np.int64)
        tokens[0, : len(batch)] = batch.positions
        for s in batch.segments:
            tokens[1, s.begin : s.end] = s.sequence
        return torch.from_numpy(np.concatenate([*tokens, *(kind.of(batch) for kind in self._cached)]))
