"""The llama family: RMS norms before both blocks, rotary positions, a gated FFN; and what differs by a word or two."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import Activation, Layer, NormKind, Parallel, Sequential
from powerinfer_cli.model.rope import RopeStyle
from powerinfer_cli.model.tensors import Architecture, LayerReader

__all__ = ["ARCHITECTURES"]


def _llama(t: LayerReader) -> Layer[Tensor, Tensor]:
    return Sequential(t.norms("attn_norm"), t.attention(rope=t.model.rope()), t.norms("ffn_norm"), t.ffn())


def _bamboo(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope())
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(relu_on_up=True))


def _without_gate(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope())
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(gated=False))


def _smollm3(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Every fourth layer turns nothing. No key says so."""
    rope = None if (t.index + 1) % 4 == 0 else t.model.rope()
    return Sequential(t.norms("attn_norm"), t.attention(rope=rope), t.norms("ffn_norm"), t.ffn())


def _plamo(t: LayerReader) -> Layer[Tensor, Tensor]:
    return Parallel(t.norm("attn_norm"), t.attention(rope=t.model.rope()), None, t.ffn())


SQUARED, NEOX = Activation.RELU_SQUARED, RopeStyle.NEOX
ARCHITECTURES = (
    Architecture("llama", _llama),
    Architecture("bamboo", _bamboo, activation=Activation.RELU),
    Architecture("internlm2", _llama),
    Architecture("xverse", _llama),
    Architecture("ernie4_5", _llama),
    Architecture("orion", _llama, rope_style=NEOX, norm=NormKind.LAYER, norm_bias="optional"),
    Architecture("arcee", _without_gate, activation=SQUARED, sparse_activation=SQUARED),
    Architecture(
        "nemotron",
        _without_gate,
        rope_style=NEOX,
        norm=NormKind.LAYER,
        norm_bias="optional",
        activation=SQUARED,
        sparse_activation=SQUARED,
    ),
    Architecture(
        "starcoder2",
        _without_gate,
        rope_style=NEOX,
        norm=NormKind.LAYER,
        norm_bias="optional",
        activation=Activation.GELU_TANH,
    ),
    Architecture("smollm3", _smollm3),
    Architecture("plamo", _plamo, rope_style=NEOX),
)
