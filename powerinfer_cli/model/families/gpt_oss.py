"""gpt-oss: biases everywhere, attention with sinks, windows in every other layer, experts of a clamped activation."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import Activation, Gating, Layer, RopeStyle, Sequential
from powerinfer_cli.model.parts.experts import expert_width, routed
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _gpt_oss(t: LayerReader) -> Layer[Tensor, Tensor]:
    """What is named as if it came behind attention is the FFN's own norm."""
    rope, sinks = t.model.rope(whole_pairs=False), t.tensor("attn_sinks.weight", t.n_head)
    window = t.window(period=2)
    attention = t.attention(rope=rope, bias="required", output_bias="required", window=window, sinks=sinks)
    experts = routed(t, width=expert_width(t, t.n_ff), gating=Gating.SOFTMAX_OF_CHOSEN, normed=False)
    return Sequential(t.norms("attn_norm"), attention, t.norms("post_attention_norm"), experts)


ARCHITECTURES = (
    Architecture(
        "gpt-oss",
        _gpt_oss,
        rope_style=RopeStyle.NEOX,
        activation=Activation.CLAMPED_SWISH,
        models="gpt-oss 20B and 120B",
        differs="biases; sinks of attention; windows; YaRN; experts, whose activation is clamped",
        experts=True,
    ),
)
