"""MPT: scores fall with distance, queries, keys and values have bounds."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Activation, HeadNorms, Layer, NormKind, Sequential
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _mpt(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Some have learned positions instead, some norms over all heads."""
    norms = None
    if "attn_q_norm.weight" in t:
        n_q, n_kv = t.n_head * t.head_dim, t.n_head_kv * t.head_dim
        norms = HeadNorms(t.norm("attn_q_norm", n_q), t.norm("attn_k_norm", n_kv), whole=True)
    attention = t.attention(
        rope=None,
        fused=True,
        norms=norms,
        alibi=t.keys.factor("attention.max_alibi_bias"),
        clamp=t.keys.factor("attention.clamp_kqv"),
    )
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(gated=False))


def _mpt_ends(model: ModelReader) -> Ends:
    return model.ends(position_offset=0 if "position_embd.weight" in model.gguf.tensors else None)


ARCHITECTURES = (
    Architecture(
        "mpt",
        _mpt,
        _mpt_ends,
        rope_style=None,
        norm=NormKind.LAYER,
        norm_bias="optional",
        activation=Activation.GELU,
        models="MPT 7B and 30B",
        differs="ALiBi or learned positions; bounds of q, k and v; layer norms; no gate, GELU",
    ),
)
