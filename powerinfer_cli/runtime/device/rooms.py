"""Where what flows through the layers on one device lies between their steps. T tokens."""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from torch import Tensor

from powerinfer_cli.kernels.device import PlanarRows
from powerinfer_cli.model.blocks import (
    Attention,
    DeltaNet,
    LatentAttention,
    Linear,
    LinearMixer,
    Mamba2,
    NoMixer,
    Norm,
    Sequential,
    SharedAttention,
    ShortConvolution,
)

__all__ = ["NOTHING", "Addends", "Chosen", "DeviceLinear", "ExpertRoom", "NeuronRoom", "mixed"]

DeviceLinear: TypeAlias = Linear[PlanarRows, Tensor]


@dataclass(frozen=True, eq=False)
class Addends:
    """What is still to be added to the residual stream: the sum of parts, behind a norm where there is one, scaled.
    beside: added to the sum behind what the parts' own sum passes through, `inner`, where there is something. stream: a
    norm of the residual stream itself, once all is added.
    """

    parts: tuple[Tensor, ...] = ()
    norm: Norm[Tensor] | None = None
    scale: float = 1.0
    beside: Tensor | None = None
    inner: Norm[Tensor] | DeviceLinear | None = None
    stream: Norm[Tensor] | None = None


NOTHING = Addends()


def mixed(block: Sequential[PlanarRows, Tensor], projected: Tensor, beside: Tensor) -> Addends:
    """What is to be added to x before the FFN: `projected`, and what is beside attention, where there is a mixer."""
    a, after = block.attention, block.attention_norms.after
    match a:
        case Attention():
            parts = (projected,) if a.beside is None else (projected, beside)
            return Addends(parts, after, block.scale)
        case SharedAttention() | LatentAttention() | LinearMixer() | ShortConvolution() | DeltaNet() | Mamba2():
            return Addends((projected,), after, block.scale)
        case NoMixer():
            return NOTHING
    assert_never(a)


@dataclass(frozen=True, eq=False)
class NeuronRoom:
    """Of neurons that are all computed, [T, n_ff]."""

    gate: Tensor
    up: Tensor
    value: Tensor


@dataclass(frozen=True, eq=False)
class ExpertRoom:
    """What a layer's experts read, and the sums of those on the device and of the others, [T, n_embd or latents]."""

    seen: Tensor
    hot: Tensor
    cold: Tensor


@dataclass(frozen=True, eq=False)
class Chosen:
    """Experts int64 [T, n_chosen] of each token, ascending, and how much each counts, [T, n_chosen]."""

    experts: Tensor
    weights: Tensor
