"""Where the tokens of a batch are, in their sequences and in the cache: as one device's kernels are told."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.pages import PageTable

__all__ = ["Places", "places_numbers"]


def places_numbers(n_tokens: int, pages: PageTable) -> int:
    """How many numbers tell of so many tokens: positions, cells, pages of all sequences, or of one token's."""
    rows = 1 if n_tokens == 1 else pages.n_sequences
    return 2 * n_tokens + rows * pages.tables.shape[1]


@dataclass(frozen=True, eq=False)
class _Own:
    """A segment of a batch. `n_past` int64 [1] and `pages` int64 [pages] are on the device; limit: attention's."""

    begin: int
    end: int
    n_past: Tensor
    pages: Tensor
    limit: int | None


class Places:
    """Where a batch's tokens are: on the device, and as segments on the host.

    positions and cells int64 [tokens]; pages of the sequences. For one token they are what a recording reads: its
    sequence's pages come first.
    """

    def __init__(self, n_tokens: int, pages: PageTable, device: torch.device) -> None:
        self._pages, self._single = pages, n_tokens == 1
        rows = 1 if self._single else pages.n_sequences
        n_pages = pages.tables.shape[1]
        self.numbers = torch.zeros(places_numbers(n_tokens, pages), dtype=torch.int64, device=device)
        self.positions, self.cells = self.numbers[:n_tokens], self.numbers[n_tokens : 2 * n_tokens]
        self._rows = self.numbers[2 * n_tokens :].view(rows, n_pages)
        self._recorded = self._single and device.type == "cuda"
        one = _Own(0, 1, self.positions[:1], self._rows[0], None)
        self.segments: tuple[_Own, ...] = (one,) if self._single else ()

    def of(self, batch: Batch) -> Tensor:
        """What `numbers` have to be for a batch, in main memory; from now on `segments` are the batch's."""
        room, n = len(self.positions), len(batch)
        wanted = np.zeros(len(self.numbers), np.int64)
        wanted[:n] = batch.positions
        own = [self._pages.cells(s.sequence, s.n_past, s.n_past + s.n_tokens) for s in batch.segments]
        wanted[room : room + n] = np.concatenate(own)
        tables = self._pages.tables
        wanted[2 * room :] = (tables[batch.segments[0].sequence] if self._single else tables).ravel()
        if not self._recorded:
            self.segments = tuple(
                _Own(
                    s.begin,
                    s.end,
                    self.positions[s.begin : s.begin + 1],
                    self._rows[0 if self._single else s.sequence],
                    s.n_past + s.n_tokens,
                )
                for s in batch.segments
            )
        return torch.from_numpy(wanted)
