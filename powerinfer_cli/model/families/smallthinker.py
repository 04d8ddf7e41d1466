"""SmallThinker: a router that reads the layer's input, experts with exact zeros, windows in three of four layers."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import Activation, Gating, Layer, RopeStyle, Sequential
from powerinfer_cli.model.keys import MAX_CONTEXT
from powerinfer_cli.model.parts.experts import expert_width, routed
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _smallthinker(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Where layers have windows, the first of four has none, and no rope."""
    length = t.keys.integer("attention.sliding_window", 0, high=MAX_CONTEXT)
    whole = length > 0 and t.index % 4 == 0
    attention = t.attention(rope=None if whole else t.model.rope(), window=None if whole else length or None)
    experts = routed(t, width=expert_width(t, t.n_ff), gating=Gating.SIGMOID, normed=True, early=True)
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), experts)


ARCHITECTURES = (
    Architecture(
        "smallthinker",
        _smallthinker,
        rope_style=RopeStyle.NEOX,
        activation=Activation.RELU,
        models="SmallThinker 4B-A0.6B and 21B-A3B",
        differs="experts with ReLU, chosen by the layer's input; windows, whose layers alone are turned",
        experts=True,
    ),
)
