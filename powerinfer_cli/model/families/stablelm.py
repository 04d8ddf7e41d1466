"""StableLM, GPT-NeoX, Orion: layer norms with bias; attention and FFN one after the other, or side by side."""

from functools import partial

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import Activation, Layer, NormKind, Parallel, RopeStyle, Sequential
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]

PARALLEL = "use_parallel_residual"


def _stablelm(t: LayerReader) -> Layer[Tensor, Tensor]:
    """StableLM 2 12B: side by side behind one norm; its heads are normed, each by a weight of its own."""
    norms = t.own_head_norms() if "attn_q_norm.weight" in t else None
    attention = t.attention(rope=t.model.rope(), norms=norms)
    together = "ffn_norm.weight" not in t
    if t.keys.flag(PARALLEL, default=together) != together:
        t.keys.fail(f"{PARALLEL} contradicts tensor blk.{t.index}.ffn_norm.weight")
    if together:
        return Parallel(t.norm("attn_norm"), attention, None, t.ffn())
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn())


def _gptneox(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope(), fused=True)
    if t.keys.flag(PARALLEL, default=True):
        return Parallel(t.norm("attn_norm"), attention, t.norm("ffn_norm"), t.ffn(gated=False))
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(gated=False))


def _orion(t: LayerReader) -> Layer[Tensor, Tensor]:
    return Sequential(t.norms("attn_norm"), t.attention(rope=t.model.rope()), t.norms("ffn_norm"), t.ffn())


LAYER_NORMS = partial(Architecture, rope_style=RopeStyle.NEOX, norm=NormKind.LAYER, norm_bias="required")
ARCHITECTURES = (
    LAYER_NORMS("orion", _orion, models="Orion 14B", differs="layer norms"),
    LAYER_NORMS(
        "stablelm",
        _stablelm,
        models="StableLM 3B, StableLM 2",
        differs="layer norms; a part of each head turned; in the 12B attention and FFN side by side, norms of heads",
    ),
    LAYER_NORMS(
        "gptneox",
        _gptneox,
        activation=Activation.GELU,
        models="Pythia, GPT-NeoX 20B, Dolly 2",
        differs="layer norms; no gate, GELU; attention and FFN side by side or not; biases",
    ),
)
