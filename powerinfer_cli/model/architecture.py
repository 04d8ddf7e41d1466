"""An architecture as data: a function that builds one layer of a file's tensors, and what its models have in common."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, assert_never

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import Activation, Embedding, Head, Layer, NormKind
from powerinfer_cli.model.rope import RopeStyle

if TYPE_CHECKING:  # they read by what an architecture says
    from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["LAYER_EPS", "Architecture", "Bias", "Ends"]

Bias: TypeAlias = Literal["none", "optional", "required"]
LAYER_EPS = "attention.layer_norm_epsilon"
Ends: TypeAlias = tuple[Embedding[Tensor, Tensor], Head[Tensor, Tensor]]


def plain_ends(model: "ModelReader") -> Ends:
    """Embedding and head without anything between."""
    return model.ends()


@dataclass(frozen=True)
class Architecture:
    """One architecture: how a layer and the ends of its models are built, and what all its norms and neurons are.

    models, differs: for people: some that have it, and what it is beside llama's. norm_weight: whether norms have any.
    experts: its files may hold experts; guessing_layers: and layers behind the last that guess further tokens.
    latents: attention is over these.
    gaps: layers may have no attention, or nothing at all: such are left out. recurrent: layers may keep states of
    sequences; those have no key-value heads. alone: a layer may be a mixer alone, or an FFN. eps_of_layer_norms: where
    the key of the norms' own is missing, that of layer norms counts. causal: tokens see none behind them, unless the
    file says otherwise; where they do, a window is as wide as half of its length to each side.
    """

    name: str
    layer: Callable[["LayerReader"], Layer[Tensor, Tensor]]
    ends: Callable[["ModelReader"], Ends] = plain_ends
    rope_style: RopeStyle | None = RopeStyle.INTERLEAVED
    norm: NormKind = NormKind.RMS
    norm_weight: bool = True
    norm_bias: Bias = "none"
    norm_eps_default: float | None = None
    activation: Activation = Activation.SILU  # of a dense file that names none
    sparse_activation: Activation = Activation.RELU
    models: str = ""
    differs: str = ""
    experts: bool = False
    guessing_layers: bool = False
    latents: bool = False
    gaps: bool = False
    recurrent: bool = False
    causal: bool = True
    alone: bool = False
    eps_of_layer_norms: bool = False
    neutral: dict[str, tuple[object, ...]] = field(default_factory=dict)  # values of keys that say what is done anyway

    @property
    def norm_eps_key(self) -> str:
        match self.norm:
            case NormKind.RMS:
                return "attention.layer_norm_rms_epsilon"
            case NormKind.LAYER:
                return LAYER_EPS
        assert_never(self.norm)
