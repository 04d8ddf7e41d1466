"""What a divided model counts: neurons and experts of whole layers, and what devices and cold tiers have seen."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from powerinfer_cli.placement import Plan
from powerinfer_cli.runtime.backend import Parts
from powerinfer_cli.runtime.batch import Batch, BatchKind
from powerinfer_cli.runtime.cpu.buffers import Buffers
from powerinfer_cli.runtime.device.side import DeviceSide
from powerinfer_cli.runtime.hybrid.division import whole_routed

__all__ = ["Counting"]

Counts = npt.NDArray[np.int64]


class Counting:
    """Adds to an engine's statistics; of tokens that may be taken back, once they are accepted."""

    def __init__(
        self, parts: Parts, plan: Plan, here: Sequence[int], sides: Mapping[int, DeviceSide], cold: Counts | None
    ) -> None:
        """here: the layers in main memory. cold [n_layer, FEW, 2]: what the cold tiers count."""
        self._stats, self._here, self._cold = parts.stats, list(here), cold
        self._n_ff, self._routed = parts.counted_neurons, whole_routed(plan, parts.model)
        self._neurons = bool(self._n_ff.any())
        self._sides = [side for gpu, side in sides.items() if self._neurons or gpu == plan.output]
        self._open: Batch | None = None  # what was counted there of it is not added yet

    def begin(self, batch: Batch) -> None:
        """Before a pass: what may be taken back is counted apart."""
        before = self._open
        if self._neurons and before is not None and (before.stepwise or batch.stepwise):
            self.collect()
        self._open = batch

    def leave(self, batch: Batch, kind: BatchKind, buffers: Buffers) -> None:
        """Behind it: what is known here."""
        self._stats.trials.count(batch, self._add_routed)
        if self._neurons and kind is BatchKind.FEW:
            passed = buffers.few_counts.copy()
            self._stats.trials.count(batch, lambda t: self._add(1, passed[:, t]))
        elif self._neurons:
            self._add(len(batch), buffers.counts)

    def collect(self) -> None:
        """Wait for the devices, and add up what they and the cold tiers have counted."""
        counted = [(list(side.layers), side.collect().copy()) for side in self._sides]
        if not self._neurons:
            return
        cold = None
        if self._cold is not None:
            cold = self._cold.copy()
            cold[..., 0] = 0  # the devices have told of them
            self._cold[:] = 0

        def add(rows: slice) -> None:
            for layers, there in counted:
                passed = there[rows].sum(0)
                self._stats.add(layers, 0, passed)
                self._stats.hot += int(passed[:, 1].sum())
            if cold is not None:
                self._stats.add(slice(None), 0, cold[:, rows].sum(1))

        if self._open is not None and self._open.stepwise:
            self._stats.trials.count(self._open, lambda t: add(slice(t, t + 1)))
        else:
            add(slice(None))
        self._open = None

    def _add(self, n_tokens: int, passed: Counts) -> None:
        self._stats.add(slice(None), self._n_ff * n_tokens)
        self._stats.add(self._here, 0, passed)

    def _add_routed(self, _: int) -> None:
        self._stats.routed += self._routed
