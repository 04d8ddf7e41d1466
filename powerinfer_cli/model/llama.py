"""The llama family: RMS norms before both blocks, rotary positions, a gated FFN."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import Activation, Layer, Sequential
from powerinfer_cli.model.rope import RopeStyle
from powerinfer_cli.model.tensors import Architecture, LayerReader

__all__ = ["BAMBOO", "LLAMA", "QWEN2", "QWEN3"]


def _llama(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope())
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn())


def _bamboo(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope())
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(relu_on_up=True))


def _qwen2(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope(), bias="required")
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn())


def _qwen3(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Queries and keys are normed, head by head, before they are turned."""
    attention = t.attention(rope=t.model.rope(), norms=t.head_norms())
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn())


LLAMA = Architecture("llama", _llama)
BAMBOO = Architecture("bamboo", _bamboo, activation=Activation.RELU)
QWEN2 = Architecture("qwen2", _qwen2, rope_style=RopeStyle.NEOX)
QWEN3 = Architecture("qwen3", _qwen3, rope_style=RopeStyle.NEOX)
