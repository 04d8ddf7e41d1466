"""Nomic BERT: BERT's norms, rope, gated neurons; the multilingual one's have no gate, and every other layer experts."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Activation, Layer, NormKind, PostNorm, RopeStyle
from powerinfer_cli.model.families.encoders.ends import encoder_ends
from powerinfer_cli.model.parts.experts import routed
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _nomic(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope())
    return PostNorm(attention, t.norm("attn_output_norm"), t.ffn(), t.norm("layer_output_norm"))


def _nomic_moe(t: LayerReader) -> Layer[Tensor, Tensor]:
    period = t.keys.integer("moe_every_n_layers", 0, high=t.model.sizes.n_layer)
    mixture = period > 0 and t.index % period == 1
    attention, norm = t.attention(rope=t.model.rope()), t.norm("attn_output_norm")
    ffn = routed(t, width=t.n_ff, normed=False, gated=False) if mixture else t.ffn(gated=False)
    return PostNorm(attention, norm, ffn, t.norm("layer_output_norm"))


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
    Architecture(
        "nomic-bert-moe",
        _nomic_moe,
        _ends,
        rope_style=RopeStyle.NEOX,
        norm=NormKind.LAYER,
        norm_bias="required",
        activation=Activation.GELU,
        causal=False,
        experts=True,
        models="Nomic Embed 2",
        differs="as bert, with rope; experts in every other layer",
    ),
)
