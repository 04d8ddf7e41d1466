"""How many bytes a model takes on a GPU, and which of them a plan puts where."""

from dataclasses import dataclass
from enum import Enum, auto

from powerinfer_cli.placement.plan import MAIN_MEMORY, Plan

__all__ = ["DeviceUse", "LayerBytes", "ModelBytes", "RowReading", "device_use", "hot_bytes"]


class RowReading(Enum):
    """Which rows of a layer's neurons a token reads: all, from front to back; those of neurons that a predictor lets
    through; the first row of each, and the others of those that are active, as zeros are exact; or all of the experts
    that a router chooses.
    """

    ALL = auto()
    PREDICTED = auto()
    FIRST = auto()
    CHOSEN = auto()


@dataclass(frozen=True)
class LayerBytes:
    """One layer's bytes on a GPU.

    attention: with the norms. predictor: 0 without one; of a mixture, its router and its shared expert. kv: for the
    whole context. neuron: gate, up and down row of one neuron; of a mixture, one expert. neurons: how many the layer
    has of these. first: of `neuron`, what is read before it is known whether the neuron is
    active: gate, or up without one; all of it where zeros are not exact. divisible: neurons may lie apart. chosen: how
    many experts a token reads. shared: of `predictor`, the shared expert, computed where its layer is beside others.
    """

    attention: int
    predictor: int
    kv: int
    neuron: int
    neurons: int
    first: int = 0
    reading: RowReading = RowReading.PREDICTED
    divisible: bool = True
    chosen: int = 0
    shared: int = 0

    @property
    def fixed(self) -> int:
        """What must lie on a GPU before its first neuron does."""
        return self.attention + self.predictor + self.kv

    @property
    def least(self) -> int:
        """What a GPU must have room for that is to hold the layer."""
        return self.fixed if self.divisible else self.fixed + self.ffn

    @property
    def ffn(self) -> int:
        """All neurons."""
        return self.neuron * self.neurons


@dataclass(frozen=True)
class ModelBytes:
    """head: with the last norm. scratch: on each GPU in use, measured."""

    layers: tuple[LayerBytes, ...]
    head: int
    scratch: int

    @property
    def total(self) -> int:
        """On one GPU that holds everything."""
        return sum(layer.fixed + layer.ffn for layer in self.layers) + self.head + self.scratch


@dataclass(frozen=True)
class DeviceUse:
    """Bytes of a plan on one GPU, or in main memory, where scratch is not counted."""

    attention: int = 0
    predictor: int = 0
    head: int = 0
    kv: int = 0
    scratch: int = 0
    neurons: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.attention + self.predictor + self.head + self.kv + self.scratch + self.neurons


def hot_bytes(sizes: ModelBytes, plan: Plan) -> int:
    """Of all hot neurons, on all GPUs."""
    return sum(layer.neuron * count for layer, count in zip(sizes.layers, plan.hot_counts, strict=True))


def device_use(sizes: ModelBytes, plan: Plan, device: int) -> DeviceUse:
    """What a plan puts on one GPU, or in MAIN_MEMORY, which also holds the neurons that are not hot."""
    pairs = list(zip(sizes.layers, plan.layers, strict=True))
    here = [layer for layer, placed in pairs if placed.device == device]
    if device == MAIN_MEMORY:
        neurons = sum(layer.neuron * (layer.neurons - placed.hot.size) for layer, placed in pairs)
    else:
        neurons = sum(layer.neuron * placed.hot.size for layer, placed in pairs if placed.device == device)
    return DeviceUse(
        attention=sum(layer.attention for layer in here),
        predictor=sum(layer.predictor for layer in here),
        head=sizes.head if plan.output == device else 0,
        kv=sum(layer.kv for layer in here),
        scratch=sizes.scratch if device in plan.gpus else 0,
        neurons=neurons,
    )
