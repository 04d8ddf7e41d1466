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
    Predicted,
    Routed,
    all_active,
    predictor_of,
    with_ffn,
)
from powerinfer_cli.placement import LayerPlacement, cold_neurons
from powerinfer_cli.placement.statistics import LayerActivity
from powerinfer_cli.runtime.modes import modes_of
from powerinfer_cli.runtime.options import LoadEvents

__all__ = ["DeviceBlock", "DeviceLayer", "Uploader"]

UPLOADING = "loading the GPU"

Indices: TypeAlias = npt.NDArray[np.int32]
FileLayer: TypeAlias = Layer[gguf_io.Tensor, gguf_io.Tensor]
DeviceBlock: TypeAlias = Layer[PlanarRows, Tensor]


@dataclass(frozen=True, eq=False)
class DeviceLayer:
    """One layer, its neurons the hot ones. n_hot and n_cold neurons are in the predictor's order: fc2 and modes uint8
    [n_ff] have the hot ones first. Down's bias is here only where no neuron is cold; else the cold tier adds it.

    place: among the device's layers.
    """

    block: DeviceBlock
    modes: Tensor | None
    n_hot: int
    n_cold: int
    place: int = 0


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
    ) -> DeviceLayer:
        """A layer with its hot neurons. `predictors`: whether they are wanted; `activity`: what statistics say."""
        hot, n_ff = placed.hot, layer.ffn.neurons.n_ff
        cold = cold_neurons(hot, n_ff)
        order = np.concatenate((hot, cold))
        wanted = placed_layer(layer if predictors else all_active(layer), hot, order)
        modes = None
        if predictor_of(wanted.ffn.selection):
            modes = torch.from_numpy(modes_of(activity, n_ff)[order]).to(self.device)
        return DeviceLayer(wanted.map(self.rows, self.vector), modes, hot.size, cold.size)

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
        return torch.from_numpy(np.array(tensor.to_float32(), np.float32)).to(self.device)


def placed_layer(layer: FileLayer, hot: Indices, order: Indices) -> FileLayer:
    """What of a layer goes to a device that has its hot neurons; `order`: in which a predictor tells of all neurons."""
    neurons, selection = layer.ffn.neurons, layer.ffn.selection
    if hot.size == neurons.n_ff:
        return layer

    def rows(one: gguf_io.Tensor) -> gguf_io.Tensor:
        return chosen_rows(one, hot)

    some = neurons.map_rows(rows, rows, lambda one: one)
    down: Linear[gguf_io.Tensor, gguf_io.Tensor] = Linear(some.down.weight, None)
    match selection:
        case Everything():
            pass
        case Predicted():
            selection = Predicted(selection.fc1, chosen_rows(selection.fc2, order))
        case Routed():
            raise ValueError("experts are in main memory")
        case _:
            assert_never(selection)
    return with_ffn(layer, FFN(replace(some, n_ff=hot.size, down=down), selection))


def _as_torch(raw: npt.NDArray[np.uint8]) -> Tensor:
    with warnings.catch_warnings():
        # torch has no read-only tensors; nothing here writes to weights.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(raw)
