"""Experts beside some that all tokens share, in dots.llm1, Ling and ERNIE 4.5 behind dense layers; Hunyuan's."""

from functools import partial

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import FFN, Gating, Layer, RopeStyle, Sequential
from powerinfer_cli.model.parts.experts import expert_width, leads_dense, routed, shared_width
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _ffn(t: LayerReader, gating: Gating, *, normed: bool, dense: bool, default: int = 0) -> FFN[Tensor, Tensor]:
    """default: neurons of the shared experts, where the file does not say."""
    if dense:
        return t.ffn()
    width = expert_width(t, t.n_ff)
    return routed(t, width=width, gating=gating, normed=normed, shared=shared_width(t, width, default))


def _dots1(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope(), norms=t.head_norms())
    ffn = _ffn(t, Gating.SIGMOID, normed=False, dense=leads_dense(t))
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), ffn)


def _bailingmoe(t: LayerReader) -> Layer[Tensor, Tensor]:
    ffn = _ffn(t, Gating.SOFTMAX, normed=False, dense=leads_dense(t))
    return Sequential(t.norms("attn_norm"), t.attention(rope=t.model.rope()), t.norms("ffn_norm"), ffn)


def _ernie(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Experts are in every so-many-th layer behind the first."""
    skipped = (t.index + 1) % t.keys.integer("interleave_moe_layer_step", 1, low=1) != 0
    ffn = _ffn(t, Gating.SOFTMAX, normed=True, dense=leads_dense(t) or skipped)
    return Sequential(t.norms("attn_norm"), t.attention(rope=t.model.rope()), t.norms("ffn_norm"), ffn)


def _hunyuan(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope(), norms=t.head_norms(after_rope=True))
    ffn = _ffn(t, Gating.SOFTMAX, normed=True, dense=False, default=t.n_ff)
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), ffn)


SHARED, NEOX = "experts, and some that all tokens share", RopeStyle.NEOX
HEADS, PARTS, TURNED = "norms of heads", "norms of heads, of which parts are turned", "norms of turned heads"
LING_2 = "Ling and Ring 2, mini and flash"
WITH = partial(Architecture, experts=True)
ARCHITECTURES = (
    WITH("dots1", _dots1, rope_style=NEOX, models="dots.llm1", differs=f"{HEADS}; {SHARED}"),
    WITH("bailingmoe", _bailingmoe, models="Ling lite and plus", differs=SHARED),
    WITH("bailingmoe2", _dots1, rope_style=NEOX, models=LING_2, differs=f"{PARTS}; {SHARED}", guessing_layers=True),
    WITH("ernie4_5-moe", _ernie, models="ERNIE 4.5 21B-A3B and 300B-A47B", differs=SHARED),
    WITH("hunyuan-moe", _hunyuan, rope_style=NEOX, models="Hunyuan A13B", differs=f"{TURNED}; {SHARED}"),
)
