"""What of a model lies on a device: layers with their hot neurons, and the head."""

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli import gguf_io
from powerinfer_cli.kernels.device import PlanarRows, planar_type, to_planar
from powerinfer_cli.model import LayerWeights, Linear, Norm
from powerinfer_cli.placement import LayerPlacement, cold_neurons
from powerinfer_cli.placement.statistics import LayerActivity
from powerinfer_cli.runtime.modes import modes_of
from powerinfer_cli.runtime.options import LoadEvents

__all__ = ["DeviceFFN", "DeviceLayer", "DeviceLinear", "DeviceNorm", "DevicePredictor", "Uploader"]

UPLOADING = "loading the GPU"

Indices = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class DeviceLinear:
    """rows [n, m]; bias float32 [n] or None."""

    rows: PlanarRows
    bias: Tensor | None


@dataclass(frozen=True, eq=False)
class DeviceNorm:
    """weight and bias float32 [n]."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, eq=False)
class DevicePredictor:
    """fc1 [rank, n_embd]; fc2 [n_ff, rank] and modes uint8 [n_ff], the hot neurons first, then the cold ones."""

    fc1: PlanarRows
    fc2: PlanarRows
    modes: Tensor


@dataclass(frozen=True, eq=False)
class DeviceFFN:
    """The hot neurons: gate, up and down_t [n_hot, n_embd], or of a dense layer all, and down [n_embd, n_ff].

    down_bias [n_embd]: only where no neuron is cold; else the cold tier adds it.
    """

    gate: DeviceLinear | None
    up: DeviceLinear
    down: PlanarRows
    transposed: bool
    down_bias: Tensor | None


@dataclass(frozen=True, eq=False)
class DeviceLayer:
    """One layer. `ffn` None: no neuron is hot. n_hot and n_cold neurons are in the predictor's order. place: among the
    device's layers.
    """

    attn_norm: DeviceNorm
    attn_norm_2: DeviceNorm | None
    attn_q: DeviceLinear
    attn_k: DeviceLinear
    attn_v: DeviceLinear
    attn_q_norm: DeviceNorm | None
    attn_k_norm: DeviceNorm | None
    attn_output: DeviceLinear
    ffn_norm: DeviceNorm | None
    ffn: DeviceFFN | None
    predictor: DevicePredictor | None
    n_hot: int
    n_cold: int
    place: int = 0


class Uploader:
    """Copies weights to one device, and tells how far it is. `total`: bytes of the file that go to all devices."""

    def __init__(self, device: torch.device, total: int, events: LoadEvents, done: int = 0) -> None:
        self.device, self._total, self._events, self.done = device, total, events, done
        self._noted: set[str] = set()

    def layer(
        self, layer: LayerWeights, placed: LayerPlacement, activity: LayerActivity | None, *, predictors: bool
    ) -> DeviceLayer:
        """A layer with its hot neurons. `predictors`: whether they are wanted; `activity`: what statistics say."""
        n_ff = layer.ffn_up.weight.shape[0]
        cold = cold_neurons(placed.hot, n_ff)
        predictor = None
        if predictors and layer.fc1 is not None and layer.fc2 is not None:
            order = np.concatenate((placed.hot, cold))
            modes = torch.from_numpy(modes_of(activity, n_ff)[order]).to(self.device)
            predictor = DevicePredictor(self.rows(layer.fc1), self.rows(layer.fc2, order), modes)
        return DeviceLayer(
            attn_norm=self.norm(layer.attn_norm),
            attn_norm_2=self._maybe_norm(layer.attn_norm_2),
            attn_q=self.linear(layer.attn_q),
            attn_k=self.linear(layer.attn_k),
            attn_v=self.linear(layer.attn_v),
            attn_q_norm=self._maybe_norm(layer.attn_q_norm),
            attn_k_norm=self._maybe_norm(layer.attn_k_norm),
            attn_output=self.linear(layer.attn_output),
            ffn_norm=self._maybe_norm(layer.ffn_norm),
            ffn=self._ffn(layer, placed.hot, n_ff) if placed.hot.size else None,
            predictor=predictor,
            n_hot=placed.hot.size,
            n_cold=cold.size,
        )

    def linear(self, linear: Linear, chosen: Indices | None = None) -> DeviceLinear:
        return DeviceLinear(self.rows(linear.weight, chosen), self._vector(linear.bias, chosen))

    def norm(self, norm: Norm) -> DeviceNorm:
        weight = self._vector(norm.weight)
        assert weight is not None
        return DeviceNorm(weight, self._vector(norm.bias))

    def rows(self, tensor: gguf_io.Tensor, chosen: Indices | None = None) -> PlanarRows:
        """A matrix, or some of its rows, as the device's kernels read it."""
        kind = planar_type(tensor.type)
        line = f"{tensor.type.name} converted to {kind.name}"
        if kind is not tensor.type and line not in self._noted:
            self._noted.add(line)
            self._events.note(line)
        raw = tensor.rows()
        found = to_planar(_as_torch(raw if chosen is None else raw[chosen]), tensor.type, tensor.shape[-1], self.device)
        self.done += tensor.row_bytes * (len(raw) if chosen is None else len(chosen))
        self._events.progress(UPLOADING, self.done, self._total)
        if self.device.type != "cpu":
            tensor.drop_pages(0, tensor.nbytes)
        return found

    def _ffn(self, layer: LayerWeights, hot: Indices, n_ff: int) -> DeviceFFN:
        everything = hot.size == n_ff
        chosen = None if everything else hot
        down = layer.ffn_down or layer.ffn_down_t
        assert down is not None  # load_weights lets no other layer through
        transposed = layer.ffn_down is None
        return DeviceFFN(
            gate=self.linear(layer.ffn_gate, chosen) if layer.ffn_gate else None,
            up=self.linear(layer.ffn_up, chosen),
            down=self.rows(down.weight, chosen if transposed else None),
            transposed=transposed,
            down_bias=self._vector(down.bias) if everything else None,
        )

    def _maybe_norm(self, norm: Norm | None) -> DeviceNorm | None:
        return None if norm is None else self.norm(norm)

    def _vector(self, tensor: gguf_io.Tensor | None, chosen: Indices | None = None) -> Tensor | None:
        if tensor is None:
            return None
        values = tensor.to_float32()
        found = np.array(values if chosen is None else values[chosen], np.float32)
        return torch.from_numpy(found).to(self.device)


def _as_torch(raw: npt.NDArray[np.uint8]) -> Tensor:
    with warnings.catch_warnings():
        # torch has no read-only tensors; nothing here writes to weights.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(raw)
