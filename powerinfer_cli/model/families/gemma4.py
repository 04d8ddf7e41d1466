"""Gemma 4 without embeddings of layers: Gemma 3's norms, values normed as well, wider heads where all is seen; in the
mixture, experts beside the dense FFN, each within norms of their own."""

from dataclasses import replace

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import (
    FFN,
    Activation,
    Attention,
    Layer,
    Norm,
    Norms,
    RopeStyle,
    Routed,
    Sequential,
    SharedExpert,
    routing_of,
)
from powerinfer_cli.model.cuts import scaled
from powerinfer_cli.model.experts import expert_width, has_experts, routed
from powerinfer_cli.model.keys import MAX_SIZE
from powerinfer_cli.model.tensors import Architecture, Ends, LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]

SCALE = "layer_output_scale.weight"
LEAST_GAIN = 1e-12  # squares of what is divided by it stay far from float32's largest numbers


def _gemma4(t: LayerReader) -> Layer[Tensor, Tensor]:
    """A layer multiplies all that it leaves in the residual stream by a number of its own. Here the stream is divided
    by these numbers' product so far instead: so is what is added to it, and so is epsilon, by the square, where the
    stream is normed, which is all that reads it.
    """
    gain = _gain(t.model, t.index)
    before, ffn_before = _of_stream(t, "attn_norm", gain), _of_stream(t, "ffn_norm", gain)
    around = Norms(before, t.norm("post_attention_norm")), Norms(ffn_before, t.norm("post_ffw_norm"))
    return Sequential(around[0], _attention(t), around[1], _ffn(t, gain), 1 / gain)


def _gain(model: ModelReader, n_layers: int) -> float:
    """What the first so many layers multiply the residual stream by."""
    product = 1.0
    for index in range(n_layers):
        found = model.maybe(f"blk.{index}.{SCALE}", 1)
        model.note_optional(index, SCALE, found is not None)
        product *= 1.0 if found is None else float(found.to_float32()[0])
        if not LEAST_GAIN <= product <= 1 / LEAST_GAIN:
            model.fail(f"the layers' layer_output_scale make {product:g} together: not supported")
    return product


def _of_stream(t: LayerReader, name: str, gain: float) -> Norm[Tensor]:
    norm = t.norm(name)
    return replace(norm, eps=norm.eps / gain**2)


def _attention(t: LayerReader) -> Attention[Tensor, Tensor]:
    window = t.window(period=6)
    rope = t.model.rope()
    if window is not None:
        t.head_dim = t.keys.integer("attention.key_length_swa", t.head_dim, low=1, high=MAX_SIZE)
        values = t.keys.integer("attention.value_length_swa", t.head_dim, low=1, high=MAX_SIZE)
        if values != t.head_dim:
            other = f"gemma4.attention.key_length_swa {t.head_dim}"
            t.keys.fail(f"attention.value_length_swa {values} differs from {other}: not supported")
        dims = "rope.dimension_count_swa"
        rope = t.model.rope(base_key="rope.freq_base_swa", dims_key=dims, n_rot=t.head_dim, scaled=False)
    norms = replace(t.head_norms(), values=True)
    return t.attention(rope=rope, norms=norms, scale=1.0, window=window, keys_as_values=window is None)


def _ffn(t: LayerReader, gain: float) -> FFN[Tensor, Tensor]:
    dense = t.ffn()
    if not has_experts(t):
        return dense
    ffn = routed(t, width=expert_width(t), normed=True)
    found = routing_of(ffn.selection)
    assert found is not None
    bare = _of_stream(t, "pre_ffw_norm_2", gain)
    scale = scaled(t.tensor("ffn_gate_inp.scale", t.n_embd), t.n_embd**-0.5)
    gains = t.maybe("ffn_down_exps.scale", found.n_experts)
    router = replace(found.router, norm=replace(bare, weight=scale), gains=gains)
    shared = SharedExpert(dense.neurons, norm=t.norm("post_ffw_norm_1"))
    return FFN(ffn.neurons, Routed(found.n_experts, router, shared, Norms(bare, t.norm("post_ffw_norm_2"))))


def _ends(model: ModelReader) -> Ends:
    softcap = model.keys.factor("final_logit_softcapping", 0.0)
    embedding, head = model.ends(embedding_scale=model.sizes.n_embd**0.5, softcap=softcap)
    gain = _gain(model, model.sizes.n_layer)
    return embedding, replace(head, norm=replace(head.norm, eps=head.norm.eps / gain**2))


ARCHITECTURES = (
    Architecture(
        "gemma4",
        _gemma4,
        _ends,
        rope_style=RopeStyle.NEOX,
        activation=Activation.GELU_TANH,
        models="Gemma 4 31B, 26B-A4B",
        differs="as gemma3; values normed, heads of two sizes; experts beside the FFN, each within own norms",
        experts=True,
    ),
)
