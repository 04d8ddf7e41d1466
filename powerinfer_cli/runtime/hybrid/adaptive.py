"""Moves what has become hot to the devices while a model runs: experts, or groups of neurons, as their heat says.

At a step's end the swaps are decided, and what takes other places there is on its way to the device; before the next
step it is put into its slots, and the cold tier computes what has left them. So nobody waits, and only tokens decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from powerinfer_cli.model.blocks import routing_of
from powerinfer_cli.placement import Heat, HeatRule, Placement, Swap, ordered
from powerinfer_cli.runtime.backend import Parts
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.cpu.weights import Uses
from powerinfer_cli.runtime.device.link import make_stream
from powerinfer_cli.runtime.device.side import DeviceSide
from powerinfer_cli.runtime.device.slots import ExpertSlots, NeuronSlots, adaptable
from powerinfer_cli.runtime.device.staging import Stage, pieces_bytes, stages_for
from powerinfer_cli.runtime.stats import SparsityStats

__all__ = ["Adaptive", "adapting_layers"]

Numbers = npt.NDArray[np.int32]
Counts = npt.NDArray[np.integer]


def adapting_layers(parts: Parts, placement: Placement) -> dict[int, npt.NDArray[np.float64] | None]:
    """The layers whose hot experts, or neurons, change, and how often a token uses each, where that is known."""
    rule, predictors = placement.adaptive, parts.config.sparse and not parts.options.all_active
    found: dict[int, npt.NDArray[np.float64] | None] = {}
    if rule is None:
        return found
    for index, (layer, placed) in enumerate(zip(parts.model.layers, placement.plan.layers, strict=True)):
        ffn, least = layer.ffn, 1
        if routing_of(ffn.selection) is None:
            least = rule.neurons if predictors else ffn.n_groups
        if adaptable(ffn) and least <= placed.hot.size <= ffn.n_groups - least:
            known = parts.statistics
            found[index] = None if known is None else known.uses(index)
    return found


class ColdOnes(Protocol):
    """The cold tier of a layer."""

    def take(self, begin: int, numbers: Numbers) -> None:
        """From a place on it has these neurons or experts instead of those that it had."""


@dataclass(frozen=True, eq=False)
class AdaptiveLayer:
    """index: in the model. uses [groups]: how often a token uses each, where that is known."""

    index: int
    side: DeviceSide
    slots: ExpertSlots | NeuronSlots
    uses: npt.NDArray[np.float64] | None


class Adaptive:
    """The layers of a model that adapt."""

    def __init__(self, rule: HeatRule, layers: Sequence[AdaptiveLayer], stats: SparsityStats) -> None:
        self._layers, self._stats = layers, stats
        self._heat = Heat(
            rule,
            [one.slots.hot for one in layers],
            [one.slots.n_groups for one in layers],
            [one.uses for one in layers],
        )
        self._place = {one.index: place for place, one in enumerate(layers)}
        largest = max(pieces_bytes(one.slots.pieces(0)) for one in layers)
        self._n_stages = stages_for(largest, rule, len(layers))  # on each device
        sides = {id(one.side): one.side for one in layers}
        self._stages = {key: [Stage(side.link, largest) for _ in range(self._n_stages)] for key, side in sides.items()}
        self._streams = {key: make_stream(side.device) for key, side in sides.items()}
        self._seen: dict[int, Counts] = {}
        self._coming: list[tuple[Swap, Stage]] = []

    @classmethod
    def of(
        cls, parts: Parts, placement: Placement, adapting: Uses, sides: Mapping[int, DeviceSide]
    ) -> "Adaptive | None":
        """adapting: as `adapting_layers` tells. sides: by GPU. None: nothing adapts."""
        rule = placement.adaptive
        if rule is None or not adapting:
            return None
        layers = []
        for index, uses in adapting.items():
            placed, ffn = placement.plan.layers[index], parts.model.layers[index].ffn
            side = sides[placed.device]
            hot, cold = ordered(placed.hot, ffn.n_groups, uses)
            if routing_of(ffn.selection) is not None:
                layers.append(AdaptiveLayer(index, side, ExpertSlots(side.layers[index], ffn, hot, cold), uses))
                continue
            slots = NeuronSlots(side.layers[index], ffn, np.concatenate((hot, cold)), rule.neurons)
            known = None if uses is None else np.array([uses[group].sum() for group in slots.neurons])
            layers.append(AdaptiveLayer(index, side, slots, known))
        return cls(rule, layers, parts.stats)

    def __contains__(self, index: int) -> bool:
        """Whether a layer adapts."""
        return index in self._place

    def neurons_of(self, index: int) -> NeuronSlots | None:
        """Of a sparse layer that adapts."""
        slots = self._layers[self._place[index]].slots if index in self._place else None
        return slots if isinstance(slots, NeuronSlots) else None

    def note_experts(self, index: int, chosen: Counts) -> None:
        """A layer's chosen experts [T, n_chosen]."""
        if index in self:
            counts = np.zeros((len(chosen), self._layers[self._place[index]].slots.n_groups), np.int16)
            counts[np.arange(len(chosen))[:, None], chosen] = 1
            self._seen[index] = counts

    def note_neurons(self, index: int, counts: Counts) -> None:
        """How many neurons were let through in each of a layer's places of groups, [T, groups]."""
        slots = self.neurons_of(index)
        assert slots is not None  # who tells has asked
        self._seen[index] = counts[:, slots.at]

    def finish(self, batch: Batch) -> None:
        """A step's end: decide, and send off."""
        if not self._seen:
            return
        n = len(next(iter(self._seen.values())))
        shape = n, *self._heat.hot.shape
        counts = np.zeros(shape, np.int16)
        for index, seen in self._seen.items():
            counts[:, self._place[index], : seen.shape[1]] = seen
        self._seen.clear()
        if batch.stepwise:
            self._stats.trials.count(batch, lambda t: self._heat.add_counts(counts[t : t + 1]))
        else:
            self._heat.add_counts(counts)
        free = {key: iter(stages) for key, stages in self._stages.items()}
        for swap in self._heat.swaps(self._n_stages):
            layer = self._layers[swap.layer]
            key, pieces = id(layer.side), layer.slots.pieces(swap.cold)
            stage = next(free[key])
            with layer.side.link.current():
                stage.send(pieces, self._streams[key])
            self._coming.append((swap, stage))
            self._stats.uploads += 1
            self._stats.moved += pieces_bytes(pieces)

    def begin(self, cold: Mapping[int, ColdOnes]) -> None:
        """Before a step: what has come is of use from now on. cold: the tiers, by layer."""
        for swap, stage in self._coming:
            layer = self._layers[swap.layer]
            with layer.side.link.current():
                begin, numbers = layer.slots.put(swap.cold, swap.hot, stage.arrive())
                stage.release()
            cold[layer.index].take(begin, numbers)
        self._coming.clear()
