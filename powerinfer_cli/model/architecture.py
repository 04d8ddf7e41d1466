"""What differs between architectures, as data."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from powerinfer_cli.model.tensors import Sizes, TensorSpec

__all__ = ["Activation", "Architecture", "NormKind", "RopeStyle"]


class Activation(StrEnum):
    """What a neuron's gate, or without one its up, passes through. GELU by the error function, or by tanh."""

    RELU = "relu"
    RELU_SQUARED = "relu_squared"
    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"

    @property
    def has_exact_zeros(self) -> bool:
        """0 for every negative number: such neurons need not be computed, whatever else they would be."""
        return self in (Activation.RELU, Activation.RELU_SQUARED)


class NormKind(StrEnum):
    RMS = "rms"
    LAYER = "layer"


class RopeStyle(StrEnum):
    """Which two dimensions of a head turn together: neighbours (2i, 2i+1), or halves (i, i + n_rot/2)."""

    INTERLEAVED = "interleaved"
    NEOX = "neox"


@dataclass(frozen=True)
class Architecture:
    """One architecture. `layer_tensors` and `model_tensors` list what a file of it must and may hold."""

    name: str
    norm: NormKind
    rope_style: RopeStyle | None
    sparse_activation: Activation
    dense_activation: Activation
    model_tensors: Callable[[Sizes], list[TensorSpec]]
    layer_tensors: Callable[[Sizes], list[TensorSpec]]
    relu_on_up: bool = False  # bamboo: the up projection passes through ReLU as well as the gate
    parallel_ffn: bool = False  # falcon: attention and FFN read the layer's input; so does the predictor
    learned_positions: bool = False  # opt
    norm_eps_default: float | None = None

    @property
    def norm_eps_key(self) -> str:
        return "attention.layer_norm_rms_epsilon" if self.norm is NormKind.RMS else "attention.layer_norm_epsilon"
