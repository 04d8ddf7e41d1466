"""Gemma 1 to 3: scaled embeddings, GELU by tanh; from 2 on norms around both blocks, windows; in 3 norms of heads."""

from functools import partial

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Activation, Attention, Layer, RopeStyle, Sequential
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]

DEEPEST = {"gemma2": 46, "gemma3": 62}  # layers of the 27B models, whose scores have another scale


def _gemma(t: LayerReader) -> Layer[Tensor, Tensor]:
    return Sequential(t.norms("attn_norm"), t.attention(rope=t.model.rope()), t.norms("ffn_norm"), t.ffn())


def _gemma2(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Every other layer has a window."""
    softcap = t.keys.factor("attn_logit_softcapping", 50.0)
    window = t.window(period=2, default=4096)
    attention = t.attention(rope=t.model.rope(), scale=_scale(t), window=window, softcap=softcap)
    return _around(t, attention)


def _gemma3(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Five of six layers have a window, and a rope of their own, which is not scaled."""
    window = t.window(period=6)
    rope = t.model.rope() if window is None else t.model.rope(base_key="rope.freq_base_swa", scaled=False)
    return _around(t, t.attention(rope=rope, scale=_scale(t), window=window, norms=t.head_norms()))


def _around(t: LayerReader, attention: Attention[Tensor, Tensor]) -> Layer[Tensor, Tensor]:
    norms = t.norms("attn_norm", "post_attention_norm"), t.norms("ffn_norm", "post_ffw_norm")
    return Sequential(norms[0], attention, norms[1], t.ffn())


def _scale(t: LayerReader) -> float | None:
    largest = t.model.sizes.n_layer == DEEPEST[t.model.arch.name]
    return t.keys.factor("attention.scale") or ((t.n_embd // t.n_head) ** -0.5 if largest else None)


def _ends(model: ModelReader) -> Ends:
    return model.ends(embedding_scale=model.sizes.n_embd**0.5)


def _capped_ends(model: ModelReader) -> Ends:
    softcap = model.keys.factor("final_logit_softcapping", 30.0 if model.arch.name == "gemma2" else 0.0)
    return model.ends(embedding_scale=model.sizes.n_embd**0.5, softcap=softcap)


GEMMA = partial(Architecture, rope_style=RopeStyle.NEOX, activation=Activation.GELU_TANH)
AS_GEMMA = "as gemma; norms around blocks, windows, soft caps"
AS_GEMMA2 = "as gemma2 without soft caps; norms of heads, two ropes"
ARCHITECTURES = (
    GEMMA("gemma", _gemma, _ends, models="Gemma, CodeGemma", differs="scaled embeddings, GELU"),
    GEMMA("gemma2", _gemma2, _capped_ends, models="Gemma 2", differs=AS_GEMMA),
    GEMMA("gemma3", _gemma3, _capped_ends, models="Gemma 3 (text)", differs=AS_GEMMA2),
)
