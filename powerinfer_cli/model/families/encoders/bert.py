"""BERT, RoBERTa, XLM-RoBERTa: learned positions, norms behind each block and its residual, biases, no gate."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Activation, Layer, NormKind, PostNorm, RopeStyle
from powerinfer_cli.model.families.encoders.ends import encoder_ends
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _bert(t: LayerReader) -> Layer[Tensor, Tensor]:
    return PostNorm(t.attention(rope=None), t.norm("attn_output_norm"), t.ffn(gated=False), t.norm("layer_output_norm"))


def _jina_3(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope())
    return PostNorm(attention, t.norm("attn_output_norm"), t.ffn(gated=False), t.norm("layer_output_norm"))


def _ends(model: ModelReader) -> Ends:
    return encoder_ends(model, positions=True, types=True)


def _jina_3_ends(model: ModelReader) -> Ends:
    return encoder_ends(model, types=True)


ARCHITECTURES = (
    Architecture(
        "bert",
        _bert,
        _ends,
        rope_style=None,
        norm=NormKind.LAYER,
        norm_bias="required",
        activation=Activation.GELU,
        causal=False,
        models="BERT, MiniLM, BGE, E5, GTE, XLM-RoBERTa, BGE-M3, BGE rerankers",
        differs="sees both sides; learned positions; layer norms behind residuals; no gate, GELU; biases",
    ),
    Architecture(
        "jina-bert-v3",
        _jina_3,
        _jina_3_ends,
        rope_style=RopeStyle.NEOX,
        norm=NormKind.LAYER,
        norm_bias="required",
        activation=Activation.GELU,
        causal=False,
        models="Jina embeddings 3",
        differs="as bert, with rope",
    ),
)
