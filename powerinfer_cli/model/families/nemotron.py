"""Arcee, Nemotron, StarCoder 2: llama's blocks without a gate."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import Activation, Layer, NormKind, RopeStyle, Sequential
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _without_gate(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope())
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(gated=False))


SQUARED, NEOX = Activation.RELU_SQUARED, RopeStyle.NEOX
ARCHITECTURES = (
    Architecture(
        "arcee",
        _without_gate,
        activation=SQUARED,
        sparse_activation=SQUARED,
        models="AFM 4.5B",
        differs="no gate, ReLU squared",
    ),
    Architecture(
        "nemotron",
        _without_gate,
        rope_style=NEOX,
        norm=NormKind.LAYER,
        norm_bias="required",
        activation=SQUARED,
        sparse_activation=SQUARED,
        models="Nemotron 4, Minitron",
        differs="layer norms; no gate, ReLU squared; a part of each head turned",
    ),
    Architecture(
        "starcoder2",
        _without_gate,
        rope_style=NEOX,
        norm=NormKind.LAYER,
        norm_bias="required",
        activation=Activation.GELU_TANH,
        models="StarCoder 2",
        differs="layer norms; no gate, GELU; biases",
    ),
)
