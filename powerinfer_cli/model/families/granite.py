"""Granite, also with experts, or Mamba-2 in most layers: llama's blocks with scales."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import FFN, Layer, Sequential
from powerinfer_cli.model.parts.experts import expert_width, has_experts, routed, shared_width
from powerinfer_cli.model.parts.recurrent import mamba2
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _granite(t: LayerReader) -> Layer[Tensor, Tensor]:
    rope = t.model.rope() if t.keys.flag("rope.scaling.finetuned", default=True) else None
    scale = t.keys.factor("attention.scale")
    mixer = t.attention(rope=rope, scale=scale) if t.n_head_kv else mamba2(t)
    scale = t.keys.factor("residual_scale") or 1.0
    return Sequential(t.norms("attn_norm"), mixer, t.norms("ffn_norm"), _ffn(t), scale)


def _ffn(t: LayerReader) -> FFN[Tensor, Tensor]:
    if t.model.arch.name == "granite" or not has_experts(t):
        return t.ffn()
    width = expert_width(t, t.n_ff)
    return routed(t, width=width, normed=True, shared=shared_width(t, width))


def _granite_ends(model: ModelReader) -> Ends:
    embedding_scale, scale = (
        model.keys.factor("embedding_scale") or 1.0,
        model.keys.number("logit_scale", low=1e-6, high=1e6),
    )
    return model.ends(embedding_scale=embedding_scale, logit_scale=1 / scale)


SCALES = "scales of embeddings, residuals, logits"
ARCHITECTURES = (
    Architecture("granite", _granite, _granite_ends, models="Granite 3 (dense)", differs=f"{SCALES} and scores"),
    Architecture(
        "granitemoe",
        _granite,
        _granite_ends,
        models="Granite 3 1B-A400M and 3B-A800M",
        differs=f"{SCALES} and scores; experts",
        experts=True,
    ),
    Architecture(
        "granitehybrid",
        _granite,
        _granite_ends,
        models="Granite 4 H (micro, tiny, small), Bamba",
        differs=f"Mamba-2 instead of attention in most layers; {SCALES} and scores; experts or none",
        experts=True,
        recurrent=True,
    ),
)
