"""Granite with experts and without, MiniCPM: llama's blocks with scales of embeddings, residuals, scores and logits."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import FFN, Layer, Sequential
from powerinfer_cli.model.experts import expert_width, has_experts, routed, shared_width
from powerinfer_cli.model.tensors import Architecture, Ends, LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _granite(t: LayerReader) -> Layer[Tensor, Tensor]:
    rope = t.model.rope() if t.keys.flag("rope.scaling.finetuned", default=True) else None
    attention = t.attention(rope=rope, scale=t.keys.factor("attention.scale"))
    scale = t.keys.factor("residual_scale") or 1.0
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), _ffn(t), scale)


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


def _minicpm(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Files from before the keys have the scales of the first models."""
    scale = t.keys.number("residual_scale", 1.4 * t.model.sizes.n_layer**-0.5, low=1e-6, high=1e6)
    attention = t.attention(rope=t.model.rope())
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(), scale)


def _minicpm_ends(model: ModelReader) -> Ends:
    scale = model.keys.number("logit_scale", model.sizes.n_embd / 256, low=1e-6, high=1e6)
    embedding_scale = model.keys.number("embedding_scale", 12.0, low=1e-6, high=1e6)
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
    Architecture("minicpm", _minicpm, _minicpm_ends, models="MiniCPM 1B and 2B", differs=SCALES),
)
