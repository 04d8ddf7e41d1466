"""Jina BERT 2: BERT's norms, scores that fall with distance (ALiBi), gated neurons; in some, norms of q and k."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Activation, HeadNorms, Layer, NormKind, PostNorm
from powerinfer_cli.model.families.encoders.ends import encoder_ends
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]

MOST = 8.0  # of slopes, where no key says so


def _jina(t: LayerReader) -> Layer[Tensor, Tensor]:
    """The second norm behind attention is of the code model's."""
    norms = None
    if "attn_q_norm.weight" in t:
        q, k = (t.norm(f"attn_{x}_norm", n * t.head_dim) for x, n in (("q", t.n_head), ("k", t.n_head_kv)))
        norms = HeadNorms(q, k, whole=True)
    attention = t.attention(rope=None, alibi=t.keys.factor("attention.max_alibi_bias", MOST), norms=norms)
    fused = "ffn_gate.weight" not in t
    again = t.norm("attn_norm_2") if "attn_norm_2.weight" in t else None
    return PostNorm(attention, t.norm("attn_output_norm"), t.ffn(fused=fused), t.norm("layer_output_norm"), again)


def _ends(model: ModelReader) -> Ends:
    return encoder_ends(model, types=True)


ARCHITECTURES = (
    Architecture(
        "jina-bert-v2",
        _jina,
        _ends,
        rope_style=None,
        norm=NormKind.LAYER,
        norm_bias="required",
        activation=Activation.GELU,
        causal=False,
        models="Jina embeddings 2, Jina rerankers 1",
        differs="as bert, with ALiBi and gated neurons",
    ),
)
