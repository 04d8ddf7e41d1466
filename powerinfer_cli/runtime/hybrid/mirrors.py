"""Keys and values that layers on other sides read as well: kept where they are made, and copied to each such side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from powerinfer_cli.kernels.device.cache import put_back, stored
from powerinfer_cli.model.blocks import Layer, sources
from powerinfer_cli.placement import MAIN_MEMORY, Plan
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.pages import Cells, Held, PageTable
from powerinfer_cli.runtime.cpu.cache import PackedCache
from powerinfer_cli.runtime.device.side import DeviceSide

__all__ = ["Mirrors"]


class Mirrors:
    """`targets`: by the number of a layer whose keys and values are read elsewhere, on which sides."""

    def __init__(
        self,
        layers: Sequence[Layer[Any, Any]],
        plan: Plan,
        pages: PageTable,
        here: PackedCache,
        devices: Mapping[int, DeviceSide],
        borders: Mapping[int, int],
    ) -> None:
        """here: the caches in main memory. borders: see `CacheOverflow`."""
        self._pages, self._here, self._devices = pages, here, devices
        self._homes = [placed.device for placed in plan.layers]
        self._windows = [layer.attention.window for layer in layers]
        self._borders = borders
        self.targets: dict[int, list[int]] = {}
        for side in (MAIN_MEMORY, *devices):
            own = {i: layer for i, layer in enumerate(layers) if self._homes[i] == side}
            for source in sorted(sources(own.values()) - own.keys()):
                self.targets.setdefault(source, []).append(side)

    def pass_on(self, layers: Sequence[int], batch: Batch) -> None:
        """What some layers, which have been run, have kept of a batch."""
        for source in self.targets.keys() & set(layers):
            pages = self._pages.of(self._windows[source])
            cells = [pages.cells(s.sequence, s.n_past, s.n_past + s.n_tokens) for s in batch.segments]
            self._copy(source, np.concatenate(cells), self._homes[source], self.targets[source])

    def restore(self, held: Held) -> None:
        """All that is held, once it was put back where it is made."""
        for source in self.targets:
            self._copy(source, held.of(self._windows[source]), self._homes[source], self.targets[source])

    def shift(self, sequence: int, n_past: int, n_keep: int, n_discard: int) -> None:
        """What has moved, of caches with pages in main memory: there, or where they are made, it has moved already."""
        for source in self.targets.keys() & self._borders.keys() if n_discard else ():
            sides = [self._homes[source], *self.targets[source]]
            whole = MAIN_MEMORY if MAIN_MEMORY in sides else sides[0]
            _, cells = self._pages.of(self._windows[source]).moves(sequence, n_past, n_keep, n_discard)
            self._copy(source, cells, whole, [side for side in sides if side != whole])

    def _copy(self, source: int, cells: Cells, home: int, targets: Sequence[int]) -> None:
        if source in self._borders:  # what is behind lies in main memory, for all
            cells = cells[cells < self._borders[source]]
        if not cells.size:
            return
        parts = self._read(home, source, cells)
        for side in targets:
            if side == MAIN_MEMORY:
                self._here.kept[source].store(cells, parts)
            else:
                there = self._devices[side]
                with there.link.current():
                    put_back(there.kept[source], torch.from_numpy(cells).to(there.device), parts)

    def _read(self, side: int, source: int, cells: Cells) -> dict[str, npt.NDArray[Any]]:
        if side == MAIN_MEMORY:
            return self._here.kept[source].stored(cells)
        there = self._devices[side]
        with there.link.current():
            return stored(there.kept[source], torch.from_numpy(cells).to(there.device))
