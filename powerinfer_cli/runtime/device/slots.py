"""What lies in which slot of a layer on a device, and putting other experts, or groups of neurons, there.

Slots are rows of the hot matrices, so that nothing that was recorded has to be recorded anew. Which expert has which
slot is a table on the device; neurons are told of in the order of their places, so that they change places there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli import gguf_io
from powerinfer_cli.kernels.device import PlanarRows
from powerinfer_cli.model.blocks import Linear, predictor_of, routing_of
from powerinfer_cli.placement import group_begins, group_rows
from powerinfer_cli.runtime.device.staging import Pieces
from powerinfer_cli.runtime.device.weights import DeviceLayer, FileFFN

__all__ = ["ExpertSlots", "NeuronSlots", "adaptable"]

Numbers = npt.NDArray[np.int32]
FileLinear = Linear[gguf_io.Tensor, gguf_io.Tensor]


def adaptable(ffn: FileFFN) -> bool:
    """Whether what is hot may change while running: experts, or neurons of which a predictor tells, whose rows lie in
    the file as they are.
    """
    if not all(one.has_rows for one in ffn.neurons.matrices):
        return False
    return routing_of(ffn.selection) is not None or (ffn.divisible and predictor_of(ffn.selection) is not None)


@dataclass(frozen=True, eq=False)
class _Part:
    """A matrix's, or a bias's, rows in the file and on the device."""

    there: Linear[PlanarRows, Tensor]
    file: FileLinear
    bias: npt.NDArray[np.float32] | None  # where it has numbers by neuron or expert


class _Slots:
    """Of a layer: rows of a group in the file, and where they go."""

    def __init__(self, layer: DeviceLayer, ffn: FileFFN, *, all_biases: bool) -> None:
        there, here = layer.block.ffn.neurons, ffn.neurons
        pairs = ((there.gate, here.gate, True), (there.up, here.up, True), (there.down, here.down, all_biases))
        self._parts = [
            _Part(a, b, None if b.bias is None or not wanted else np.array(b.bias.to_float32(), np.float32))
            for a, b, wanted in pairs
            if a is not None and b is not None
        ]

    def _fill(self, slot: int, arrived: Iterator[PlanarRows], rows: list[Numbers]) -> None:
        """A slot's rows of each matrix."""
        for part, new, chosen in zip(self._parts, arrived, rows, strict=True):
            begin = slot * len(chosen)
            part.there.weight.slice(begin, begin + len(chosen)).copy_from(new)
            if part.bias is not None and part.there.bias is not None:
                part.there.bias[begin : begin + len(chosen)].copy_(torch.from_numpy(part.bias[chosen]))


class ExpertSlots(_Slots):
    """Of a mixture; groups are experts."""

    def __init__(self, layer: DeviceLayer, ffn: FileFFN, hot: Numbers, cold: Numbers) -> None:
        """hot: experts by slot; cold: those in main memory, in its order."""
        super().__init__(layer, ffn, all_biases=True)
        assert layer.slots is not None
        self._table, self.n_groups = layer.slots, ffn.n_groups
        self.hot = np.sort(hot)
        self._slots = {int(expert): slot for slot, expert in enumerate(hot)}
        self._places = {int(expert): place for place, expert in enumerate(cold)}

    def pieces(self, group: int) -> Pieces:
        """What has to be brought for an expert."""
        return list(zip((part.file.weight for part in self._parts), self._rows(group), strict=True))

    def put(self, cold: int, hot: int, arrived: Iterator[PlanarRows]) -> tuple[int, Numbers]:
        """A cold expert takes the slot of a hot one; what is launched from now on sees that. From which place on among
        the cold ones which others are now.
        """
        slot, place = self._slots.pop(hot), self._places.pop(cold)
        self._slots[cold], self._places[hot] = slot, place
        self._fill(slot, arrived, self._rows(cold))
        self._table[hot : hot + 1].fill_(-1)
        self._table[cold : cold + 1].fill_(slot)
        return place, np.array([hot], np.int32)

    def _rows(self, group: int) -> list[Numbers]:
        one = np.array([group], np.int32)
        return [group_rows(one, self.n_groups, part.file.weight.shape[0]) for part in self._parts]


class NeuronSlots(_Slots):
    """Of a sparse layer; a group is `size` neurons that lie side by side in the predictor's order. The first n_hot
    groups are hot; neurons that fill no group stay where they are.
    """

    def __init__(self, layer: DeviceLayer, ffn: FileFFN, order: Numbers, size: int) -> None:
        """order [n_ff]: the predictor's, the hot neurons first. at [groups]: each group's place, the hot ones first."""
        super().__init__(layer, ffn, all_biases=False)
        asked = predictor_of(layer.block.ffn.selection)
        assert asked is not None
        assert layer.modes is not None
        self._fc2, self._modes, self._size = asked.fc2, layer.modes, size
        self._first_cold = layer.n_hot
        hot, cold = group_begins(layer.n_hot, layer.n_cold, size)
        self._begins = [*hot, *cold]
        self.hot, self.n_groups = np.arange(len(hot), dtype=np.int32), len(self._begins)
        self.neurons = [order[begin : begin + size].copy() for begin in self._begins]
        self.at = np.arange(self.n_groups)

    def pieces(self, group: int) -> Pieces:
        """What has to be brought for a group."""
        return [(part.file.weight, self.neurons[group]) for part in self._parts]

    def counts(self, mask: Tensor) -> Tensor:
        """How many of a mask's neurons [T, n_ff] are in each place of a group, hot ones first, int16 [T, groups]."""
        groups = [
            mask[:, begin : begin + count * self._size].reshape(len(mask), count, self._size).sum(2, dtype=torch.int16)
            for begin, count in ((0, self.hot.size), (self._first_cold, self.n_groups - self.hot.size))
        ]
        return torch.cat(groups, 1)

    def put(self, cold: int, hot: int, arrived: Iterator[PlanarRows]) -> tuple[int, Numbers]:
        """A cold group and a hot one change places; what is launched from now on sees that. From which place on among
        the cold neurons which others are now.
        """
        slot, there = int(self.at[hot]), int(self.at[cold])
        self._fill(slot, arrived, [self.neurons[cold]] * len(self._parts))
        one, other = self._begins[slot], self._begins[there]
        self._fc2.slice(one, one + self._size).exchange(self._fc2.slice(other, other + self._size))
        kept = self._modes[one : one + self._size].clone()
        self._modes[one : one + self._size].copy_(self._modes[other : other + self._size])
        self._modes[other : other + self._size].copy_(kept)
        self.at[hot], self.at[cold] = there, slot
        return other - self._first_cold, self.neurons[hot]
