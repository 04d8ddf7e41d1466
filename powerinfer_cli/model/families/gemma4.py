"""Gemma 4: as Gemma 3; values normed, two sizes of heads, experts beside the FFN, inputs of layers, shared keys."""

from dataclasses import replace

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Activation, Attention, Layer, Norms, RopeStyle, Sequential, SharedAttention
from powerinfer_cli.model.parts.experts import has_experts
from powerinfer_cli.model.parts.experts_beside import experts_beside
from powerinfer_cli.model.parts.head_sizes import windowed_head_dim
from powerinfer_cli.model.parts.layer_inputs import input_gate, layer_inputs
from powerinfer_cli.model.parts.output_scales import norm_of_stream, stream_gain
from powerinfer_cli.model.parts.shared_keys import shared_attention, source_of
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _gemma4(t: LayerReader) -> Layer[Tensor, Tensor]:
    gain, ffn = stream_gain(t.model, t.index), t.ffn()
    before, ffn_before = (norm_of_stream(t.norm(name), gain) for name in ("attn_norm", "ffn_norm"))
    around = Norms(before, t.norm("post_attention_norm")), Norms(ffn_before, t.norm("post_ffw_norm"))
    if has_experts(t):
        ffn = experts_beside(t, ffn, norm_of_stream(t.norm("pre_ffw_norm_2"), gain))
    return Sequential(around[0], _attention(t), around[1], ffn, 1 / gain, input_gate(t, gain))


def _attention(t: LayerReader) -> Attention[Tensor, Tensor] | SharedAttention[Tensor, Tensor]:
    windows, rope = t.windows(period=6), t.model.rope()
    window, source = windows[t.index], source_of(t, windows)
    if window is not None:
        t.head_dim = windowed_head_dim(t)
        dims = "rope.dimension_count_swa"
        rope = t.model.rope(base_key="rope.freq_base_swa", dims_key=dims, n_rot=t.head_dim, scaled=False)
    if source is not None:
        return shared_attention(t, source, rope=rope, scale=1.0, window=window)
    norms = replace(t.head_norms(), values=True)
    return t.attention(rope=rope, norms=norms, scale=1.0, window=window, keys_as_values=window is None)


def _ends(model: ModelReader) -> Ends:
    softcap = model.keys.factor("final_logit_softcapping", 0.0)
    embedding, head = model.ends(embedding_scale=model.sizes.n_embd**0.5, softcap=softcap)
    head = replace(head, norm=norm_of_stream(head.parts[0], stream_gain(model, model.sizes.n_layer)))
    return replace(embedding, inputs=layer_inputs(model)), head


ARCHITECTURES = (
    Architecture(
        "gemma4",
        _gemma4,
        _ends,
        rope_style=RopeStyle.NEOX,
        activation=Activation.GELU_TANH,
        models="Gemma 4 E2B, E4B, 31B, 26B-A4B",
        differs="as gemma3; values normed, heads of two sizes; experts beside the FFN, each within own norms; "
        "embeddings by layer, and last layers that read others' keys and values",
        experts=True,
    ),
)
