"""GLM 4: norms around both blocks, gate and up fused. GLM 4.5: experts behind the first layers."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import FFN, Gating, Layer, RopeStyle, Sequential
from powerinfer_cli.model.parts.experts import expert_width, leads_dense, routed, shared_width
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _glm4(t: LayerReader) -> Layer[Tensor, Tensor]:
    norms = t.norms("attn_norm", "post_attention_norm"), t.norms("ffn_norm", "post_ffw_norm")
    return Sequential(norms[0], t.attention(rope=t.model.rope()), norms[1], t.ffn(fused=True))


def _glm4moe(t: LayerReader) -> Layer[Tensor, Tensor]:
    """What is named as if it came behind attention is the FFN's own norm."""
    norms = t.head_norms() if "attn_q_norm.weight" in t else None
    attention = t.attention(rope=t.model.rope(), norms=norms)
    return Sequential(t.norms("attn_norm"), attention, t.norms("post_attention_norm"), _ffn(t))


def _ffn(t: LayerReader) -> FFN[Tensor, Tensor]:
    if leads_dense(t):
        return t.ffn()
    width = expert_width(t)
    return routed(t, width=width, gating=Gating.SIGMOID, normed=False, shared=shared_width(t, width))


ARCHITECTURES = (
    Architecture(
        "glm4",
        _glm4,
        models="GLM 4 0414 (9B and 32B)",
        differs="norms around blocks; gate and up fused; a part of each head turned",
    ),
    Architecture(
        "glm4moe",
        _glm4moe,
        rope_style=RopeStyle.NEOX,
        models="GLM 4.5 and 4.6, Air too",
        differs="a part of each head turned; experts behind the first layers, and one that all tokens share",
        experts=True,
        guessing_layers=True,
    ),
)
