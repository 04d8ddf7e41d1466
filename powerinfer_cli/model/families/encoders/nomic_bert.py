"""Nomic BERT: BERT's norms, rope, gated neurons."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import Activation, Layer, NormKind, PostNorm, RopeStyle
from powerinfer_cli.model.families.encoders.ends import encoder_ends
from powerinfer_cli.model.tensors import Architecture, Ends, LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _nomic(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope())
    return PostNorm(attention, t.norm("attn_output_norm"), t.ffn(), t.norm("layer_output_norm"))


def _ends(model: ModelReader) -> Ends:
    return encoder_ends(model, types=True)


ARCHITECTURES = (
    Architecture(
        "nomic-bert",
        _nomic,
        _ends,
        rope_style=RopeStyle.NEOX,
        norm=NormKind.LAYER,
        norm_bias="required",
        activation=Activation.SILU,
        causal=False,
        models="Nomic Embed 1 and 1.5",
        differs="as bert, with rope and gated neurons, SiLU",
    ),
)
