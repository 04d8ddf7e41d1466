"""Phi-2: attention and FFN side by side, biases everywhere. Phi-3 and 4: llama's blocks, fused, with longrope."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Activation, Layer, NormKind, Parallel, RopeStyle, Sequential
from powerinfer_cli.model.keys import MAX_CONTEXT
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _phi2(t: LayerReader) -> Layer[Tensor, Tensor]:
    return Parallel(t.norm("attn_norm"), t.attention(rope=t.model.rope()), None, t.ffn(gated=False))


def _phi2_ends(model: ModelReader) -> Ends:
    return model.ends(output_bias="required")


def _phi3(t: LayerReader) -> Layer[Tensor, Tensor]:
    """A window, where there is one, is every layer's."""
    window = t.keys.integer("attention.sliding_window", 0, high=MAX_CONTEXT) or None
    attention = t.attention(rope=t.model.rope(), window=window)
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(fused=True))


ARCHITECTURES = (
    Architecture(
        "phi2",
        _phi2,
        _phi2_ends,
        rope_style=RopeStyle.NEOX,
        norm=NormKind.LAYER,
        norm_bias="required",
        activation=Activation.GELU_TANH,
        models="Phi 1, 1.5 and 2",
        differs="layer norms; no gate, GELU; attention and FFN side by side; biases",
    ),
    Architecture(
        "phi3",
        _phi3,
        rope_style=RopeStyle.NEOX,
        models="Phi 3, 3.5 and 4 (mini and medium)",
        differs="fused matrices; windows; factors for long contexts",
    ),
)
