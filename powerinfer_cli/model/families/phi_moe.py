"""Phi 3.5 MoE: llama's blocks with layer norms and biases; experts that count by what is near them."""

from dataclasses import replace

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Gating, Layer, NormKind, Norms, RopeStyle, Sequential
from powerinfer_cli.model.keys import MAX_CONTEXT
from powerinfer_cli.model.parts.experts import expert_width, routed
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _phimoe(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Layer norms, whose epsilon has the key of the others."""
    window = t.keys.integer("attention.sliding_window", 0, high=MAX_CONTEXT) or None
    attention = t.attention(rope=t.model.rope(), window=window)
    before, behind = (Norms(t.norm(name, kind=NormKind.LAYER)) for name in ("attn_norm", "ffn_norm"))
    experts = routed(t, width=expert_width(t, t.n_ff), gating=Gating.NEAR, normed=False)
    return Sequential(before, attention, behind, experts)


def _ends(model: ModelReader) -> Ends:
    embedding, head = model.ends(output_bias="required")
    return embedding, replace(head, norm=replace(head.parts[0], kind=NormKind.LAYER))


ARCHITECTURES = (
    Architecture(
        "phimoe",
        _phimoe,
        _ends,
        rope_style=RopeStyle.NEOX,
        norm_bias="required",
        models="Phi 3.5 MoE, Phi mini MoE",
        differs="layer norms, biases; experts that count by what is near them",
        experts=True,
    ),
)
