"""BLOOM, Baichuan 13B: instead of turning, scores fall with distance (ALiBi)."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Activation, Layer, NormKind, Sequential
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


MOST = 8.0  # of slopes, where no key says so


def _bloom(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=None, fused=True, bias="required", output_bias="required", alibi=MOST)
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(gated=False, bias="required"))


def _bloom_ends(model: ModelReader) -> Ends:
    return model.ends(embedding_norm=True)


def _baichuan(t: LayerReader) -> Layer[Tensor, Tensor]:
    """The 13B, which its layers tell, does not turn: its scores fall with distance."""
    leans = t.model.sizes.n_layer == 40
    attention = t.attention(rope=None if leans else t.model.rope(), alibi=MOST if leans else None)
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn())


ARCHITECTURES = (
    Architecture(
        "bloom",
        _bloom,
        _bloom_ends,
        rope_style=None,
        norm=NormKind.LAYER,
        norm_bias="required",
        activation=Activation.GELU_TANH,
        models="BLOOM, BLOOMZ",
        differs="ALiBi; layer norms, also of embeddings; no gate, GELU; biases",
        neutral={"attention.max_alibi_bias": (0, MOST)},
    ),
    Architecture(
        "baichuan",
        _baichuan,
        models="Baichuan 1 and 2",
        differs="the 13B has ALiBi",
        neutral={"attention.max_alibi_bias": (0, MOST)},
    ),
)
