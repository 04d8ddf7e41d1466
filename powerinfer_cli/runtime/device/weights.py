"""What of a model lies on a device: layers with their hot neurons, and the head."""

import warnings
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli import gguf_io
from powerinfer_cli.gguf_io import chosen_rows
from powerinfer_cli.kernels.device import PlanarRows, planar_type, to_planar
from powerinfer_cli.model.blocks import (
    FFN,
    Everything,
    Head,
    Layer,
    Linear,
    Neurons,
    Predicted,
    Routed,
    all_active,
    predictor_of,
    routing_of,
    with_ffn,
)
from powerinfer_cli.placement import LayerPlacement, group_rows, ordered
from powerinfer_cli.placement.statistics import LayerActivity
from powerinfer_cli.runtime.modes import modes_of
from powerinfer_cli.runtime.numbers import floats_of
from powerinfer_cli.runtime.options import LoadEvents

__all__ = ["DeviceBlock", "DeviceLayer", "FileFFN", "FileNeurons", "Uploader"]

UPLOADING = "loading the GPU"

Indices: TypeAlias = npt.NDArray[np.int32]
FileLayer: TypeAlias = Layer[gguf_io.Tensor, gguf_io.Tensor]
FileFFN: TypeAlias = FFN[gguf_io.Tensor, gguf_io.Tensor]
FileNeurons: TypeAlias = Neurons[gguf_io.Tensor, gguf_io.Tensor]
DeviceBlock: TypeAlias = Layer[PlanarRows, Tensor]


@dataclass(frozen=True, eq=False)
class DeviceLayer:
    """One layer, its neurons the hot ones. n_hot and n_cold neurons are in the predictor's order: fc2 and modes uint8
    [n_ff] have the hot ones first. Down's bias is here only where no neuron is cold; else the cold tier adds it.

    Of a mixture n_hot and n_cold are experts; slots int64 [E]: where among the hot ones an expert is, -1: nowhere.
    place: among the device's layers.
    """

    block: DeviceBlock
    modes: Tensor | None
    n_hot: int
    n_cold: int
    place: int = 0
    slots: Tensor | None = None

    @property
    def has_ffn(self) -> bool:
        """Not where it is a mixer alone."""
        return self.n_hot + self.n_cold > 0

    @property
    def adds_hot(self) -> bool:
        """Whether anything of the FFN is computed here."""
        routed = routing_of(self.block.ffn.selection)
        return self.n_hot > 0 or (routed is not None and routed.shared is not None)


class Uploader:
    """Copies weights to one device, and tells how far it is. `total`: bytes of the file that go to all devices."""

    def __init__(self, device: torch.device, total: int, events: LoadEvents, done: int = 0) -> None:
        self.device, self._total, self._events, self.done = device, total, events, done
        self._noted: set[str] = set()

    def layer(
        self,
        layer: FileLayer,
        placed: LayerPlacement,
        activity: LayerActivity | None,
        *,
        predictors: bool,
        uses: npt.NDArray[np.float64] | None = None,
    ) -> DeviceLayer:
        """A layer with its hot neurons or experts. `predictors`: whether they are wanted; `activity`: what statistics
        say; uses: by how often they are used they are in order.
        """
        n_groups = layer.ffn.n_groups
        hot, cold = ordered(placed.hot, n_groups, uses)
        order = np.concatenate((hot, cold))
        wanted = placed_layer(layer if predictors else all_active(layer), hot, order)
        modes = slots = None
        if predictor_of(wanted.ffn.selection):
            modes = torch.from_numpy(modes_of(activity, n_groups)[order]).to(self.device)
        if routing_of(wanted.ffn.selection):
            slots = torch.full((n_groups,), -1, dtype=torch.int64)
            slots[torch.from_numpy(hot).long()] = torch.arange(hot.size)
            slots = slots.to(self.device)
        return DeviceLayer(wanted.map(self.rows, self.vector), modes, hot.size, cold.size, slots=slots)

    def head(self, head: Head[gguf_io.Tensor, gguf_io.Tensor]) -> Head[PlanarRows, Tensor]:
        return head.map(self.rows, self.vector)

    def rows(self, tensor: gguf_io.Tensor) -> PlanarRows:
        """A matrix as the device's kernels read it."""
        kind = planar_type(tensor.type)
        line = f"{tensor.type.name} converted to {kind.name}"
        if kind is not tensor.type and line not in self._noted:
            self._noted.add(line)
            self._events.note(line)
        found = to_planar(_as_torch(tensor.rows()), tensor.type, tensor.shape[-1], self.device)
        self.done += tensor.nbytes
        self._events.progress(UPLOADING, self.done, self._total)
        if self.device.type != "cpu":
            tensor.drop_pages(0, tensor.nbytes)
        return found

    def vector(self, tensor: gguf_io.Tensor) -> Tensor:
        return torch.from_numpy(np.array(floats_of(tensor))).to(self.device)


def placed_layer(layer: FileLayer, hot: Indices, order: Indices) -> FileLayer:
    """What of a layer goes to a device that has its hot neurons or experts; `order`: in which a predictor tells of all
    neurons.
    """
    neurons, selection, n_groups = layer.ffn.neurons, layer.ffn.selection, layer.ffn.n_groups
    if hot.size == n_groups:
        return layer

    def rows(one: gguf_io.Tensor) -> gguf_io.Tensor:
        return chosen_rows(one, group_rows(hot, n_groups, one.shape[0]))

    n_ff = hot.size * (neurons.n_ff // n_groups)
    match selection:
        case Everything():
            some = _without_down_bias(neurons.map_rows(rows, rows, lambda one: one))
        case Predicted():
            some = _without_down_bias(neurons.map_rows(rows, rows, lambda one: one))
            selection = Predicted(selection.fc1, chosen_rows(selection.fc2, order))
        case Routed():
            some = neurons.map(rows, rows)
        case _:
            assert_never(selection)
    return with_ffn(layer, FFN(replace(some, n_ff=n_ff), selection))


def _without_down_bias(neurons: FileNeurons) -> FileNeurons:
    return replace(neurons, down=Linear(neurons.down.weight, None))


def _as_torch(raw: npt.NDArray[np.uint8]) -> Tensor:
    with warnings.catch_warnings():
        # torch has no read-only tensors; nothing here writes to weights.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(raw)
