"""Qwen's mixtures of experts, 2 and 3: the blocks of Qwen 2 and 3, with experts for neurons; OLMoE."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import HeadNorms, Layer, RopeStyle, Sequential
from powerinfer_cli.model.parts.experts import expert_width, routed, shared_width
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _qwen2moe(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope(), bias="required")
    width = expert_width(t)
    experts = routed(t, width=width, normed=False, shared=shared_width(t, width, t.n_ff), shared_gate=True)
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), experts)


def _qwen3moe(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope(), norms=t.head_norms())
    experts = routed(t, width=expert_width(t), normed=True)
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), experts)


def _olmoe(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Norms of queries and keys are over all heads together."""
    n_q, n_kv = t.n_head * t.head_dim, t.n_head_kv * t.head_dim
    norms = HeadNorms(t.norm("attn_q_norm", n_q), t.norm("attn_k_norm", n_kv), whole=True)
    attention = t.attention(rope=t.model.rope(), norms=norms)
    return Sequential(
        t.norms("attn_norm"), attention, t.norms("ffn_norm"), routed(t, width=expert_width(t, t.n_ff), normed=False)
    )


NEOX = RopeStyle.NEOX
ARCHITECTURES = (
    Architecture(
        "qwen2moe",
        _qwen2moe,
        rope_style=NEOX,
        models="Qwen 1.5 MoE and 2 57B-A14B",
        differs="biases of attention; experts, and one that all tokens share",
        experts=True,
    ),
    Architecture(
        "qwen3moe", _qwen3moe, rope_style=NEOX, models="Qwen 3 30B-A3B", differs="norms of heads; experts", experts=True
    ),
    Architecture(
        "olmoe",
        _olmoe,
        rope_style=NEOX,
        models="OLMoE 1B-7B",
        differs="norms of all heads together; experts",
        experts=True,
    ),
)
