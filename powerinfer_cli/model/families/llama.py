"""The llama family: RMS norms before both blocks, rotary positions, a gated FFN; and what differs by a word or two."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import Activation, Layer, Parallel, RopeStyle, Sequential
from powerinfer_cli.model.parts.experts import expert_width, has_experts, routed
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _llama(t: LayerReader) -> Layer[Tensor, Tensor]:
    return Sequential(t.norms("attn_norm"), t.attention(rope=t.model.rope()), t.norms("ffn_norm"), t.ffn())


def _llama_or_mixtral(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Mixtral's files have llama's architecture."""
    if not has_experts(t):
        return _llama(t)
    experts = routed(t, width=expert_width(t, t.n_ff), normed=True)
    return Sequential(t.norms("attn_norm"), t.attention(rope=t.model.rope()), t.norms("ffn_norm"), experts)


def _bamboo(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope())
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(relu_on_up=True))


def _smollm3(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Every fourth layer turns nothing. No key says so."""
    rope = None if (t.index + 1) % 4 == 0 else t.model.rope()
    return Sequential(t.norms("attn_norm"), t.attention(rope=rope), t.norms("ffn_norm"), t.ffn())


def _plamo(t: LayerReader) -> Layer[Tensor, Tensor]:
    return Parallel(t.norm("attn_norm"), t.attention(rope=t.model.rope()), None, t.ffn())


ARCHITECTURES = (
    Architecture(
        "llama",
        _llama_or_mixtral,
        models="Llama 1 to 3, Mistral, Mixtral, TinyLlama, SmolLM2, Yi, ReluLLaMA, ProSparse",
        differs="RMS norms, rotary positions, a gate with SiLU (with ReLU where the file is sparse); Mixtral: experts",
        experts=True,
    ),
    Architecture(
        "bamboo", _bamboo, activation=Activation.RELU, models="Bamboo", differs="ReLU on the gate and on what it gates"
    ),
    Architecture("internlm2", _llama, models="InternLM 2 and 2.5", differs="in names only"),
    Architecture("xverse", _llama, models="XVERSE 7B, 13B and 65B", differs="in names only"),
    Architecture("ernie4_5", _llama, models="ERNIE 4.5 0.3B", differs="in names only"),
    Architecture("smollm3", _smollm3, models="SmolLM3", differs="every fourth layer knows no positions"),
    Architecture(
        "plamo", _plamo, rope_style=RopeStyle.NEOX, models="PLaMo 13B", differs="attention and FFN side by side"
    ),
)
