"""Qwen 2 and 3, Seed-OSS, Hunyuan: llama's blocks, with biases or norms of heads."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import Layer, RopeStyle, Sequential
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _qwen2(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope(), bias="required")
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn())


def _qwen3(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Queries and keys are normed, head by head, before they are turned."""
    attention = t.attention(rope=t.model.rope(), norms=t.head_norms())
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn())


def _hunyuan(t: LayerReader) -> Layer[Tensor, Tensor]:
    """They are normed after they are turned."""
    attention = t.attention(rope=t.model.rope(), norms=t.head_norms(after_rope=True))
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn())


def _seed_oss(t: LayerReader) -> Layer[Tensor, Tensor]:
    """What is named as if it came behind attention is the FFN's own norm."""
    attention = t.attention(rope=t.model.rope())
    return Sequential(t.norms("attn_norm"), attention, t.norms("post_attention_norm"), t.ffn())


NEOX = RopeStyle.NEOX
ARCHITECTURES = (
    Architecture("qwen2", _qwen2, rope_style=NEOX, models="Qwen 2 and 2.5, QwQ", differs="biases of attention"),
    Architecture("qwen3", _qwen3, rope_style=NEOX, models="Qwen 3", differs="norms of heads"),
    Architecture(
        "hunyuan-dense", _hunyuan, rope_style=NEOX, models="Hunyuan 0.5B to 7B", differs="norms of turned heads"
    ),
    Architecture("seed_oss", _seed_oss, rope_style=NEOX, models="Seed-OSS 36B", differs="biases of attention"),
)
