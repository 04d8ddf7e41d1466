"""LFM2: short convolutions in most layers, attention with norms of heads in some; experts."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Gating, Layer, Mixer, RopeStyle, Sequential
from powerinfer_cli.model.parts.experts import expert_width, leads_dense, routed
from powerinfer_cli.model.parts.recurrent import short_convolution
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _mixer(t: LayerReader) -> Mixer[Tensor, Tensor]:
    """Convolution where there are no key-value heads."""
    return t.attention(rope=t.model.rope(), norms=t.head_norms()) if t.n_head_kv else short_convolution(t)


def _lfm2(t: LayerReader) -> Layer[Tensor, Tensor]:
    return Sequential(t.norms("attn_norm"), _mixer(t), t.norms("ffn_norm"), t.ffn())


def _lfm2moe(t: LayerReader) -> Layer[Tensor, Tensor]:
    ffn = t.ffn() if leads_dense(t) else routed(t, width=expert_width(t), gating=Gating.SIGMOID, normed=True)
    return Sequential(t.norms("attn_norm"), _mixer(t), t.norms("ffn_norm"), ffn)


def _ends(model: ModelReader) -> Ends:
    """What is named the embedding's norm is the head's."""
    return model.ends(norm_name="token_embd_norm")


NEOX = RopeStyle.NEOX
ARCHITECTURES = (
    Architecture(
        "lfm2",
        _lfm2,
        _ends,
        rope_style=NEOX,
        models="LFM2 350M to 2.6B",
        differs="short convolutions instead of attention in most layers",
        recurrent=True,
    ),
    Architecture(
        "lfm2moe",
        _lfm2moe,
        _ends,
        rope_style=NEOX,
        models="LFM2 8B-A1B",
        differs="short convolutions instead of attention in most layers; experts",
        experts=True,
        recurrent=True,
    ),
)
