"""Llama 4: three of four layers attend within chunks, the fourth to all, without rope; experts weigh what they read."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import FFN, Attention, Gating, Layer, Sequential, Temperature
from powerinfer_cli.model.keys import MAX_CONTEXT
from powerinfer_cli.model.parts.experts import expert_width, routed, shared_width
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]

CHUNK, GAIN = 8192, 0.1
BARE = 128  # experts of Maverick, whose queries and keys have no norms


def _llama4(t: LayerReader) -> Layer[Tensor, Tensor]:
    return Sequential(t.norms("attn_norm"), _attention(t), t.norms("ffn_norm"), _ffn(t))


def _attention(t: LayerReader) -> Attention[Tensor, Tensor]:
    """A chunk of 0: there are none, and every layer is turned."""
    chunk = t.keys.integer("attention.sliding_window", CHUNK, high=MAX_CONTEXT)
    chunked = t.keys.pattern("attention.sliding_window_pattern", t.model.sizes.n_layer, 4)[t.index]
    gain = t.keys.number("attention.temperature_scale", GAIN)
    length = t.keys.integer("attention.temperature_length", CHUNK, low=1, high=MAX_CONTEXT)
    if chunk and not chunked:
        return t.attention(rope=None, temperature=Temperature(gain, length, ahead=1))
    bare = t.keys.integer("expert_count", 0) == BARE
    norms = None if bare else t.bare_head_norms(after_rope=True)
    return t.attention(rope=t.model.rope(), norms=norms, chunk=chunk or None)


def _ffn(t: LayerReader) -> FFN[Tensor, Tensor]:
    """Experts are in every so-many-th layer."""
    if (t.index + 1) % t.keys.integer("interleave_moe_layer_step", 1, low=1):
        return t.ffn()
    width = expert_width(t, t.n_ff)
    shared = shared_width(t, width, width)
    return routed(t, width=width, gating=Gating.SIGMOID, normed=False, shared=shared, on_input=True)


ARCHITECTURES = (
    Architecture(
        "llama4",
        _llama4,
        models="Llama 4 Scout and Maverick",
        differs="chunks of attention, bare norms of turned heads, layers without rope; weights of what experts read",
        experts=True,
    ),
)
