"""OLMo: norms without weights. OLMo 2 and 3, EXAONE 4: norms behind both blocks alone, and of queries and keys."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import HeadNorms, Layer, NormKind, RopeStyle, Sequential
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _olmo(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope(), clamp=t.keys.factor("attention.clamp_kqv"))
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn())


def _olmo2(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Norms are over all heads together. OLMo 3: three of four layers have a window, and a rope that is not scaled."""
    n_q, n_kv = t.n_head * t.head_dim, t.n_head_kv * t.head_dim
    norms = HeadNorms(t.norm("attn_q_norm", n_q), t.norm("attn_k_norm", n_kv), whole=True)
    window, rope = t.window(period=4), t.model.rope()
    if window is not None:
        rope = t.model.rope(base_key="rope.freq_base_swa", base=rope.base, scaled=False)
    attention = t.attention(rope=rope, window=window, norms=norms)
    return Sequential(t.norms(after="post_attention_norm"), attention, t.norms(after="post_ffw_norm"), t.ffn())


def _exaone4(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Where layers have windows, only they turn."""
    window = t.window(period=4)
    attention = t.attention(
        rope=t.model.rope() if window is not None or not t.has_windows else None, window=window, norms=t.head_norms()
    )
    return Sequential(t.norms(after="post_attention_norm"), attention, t.norms(after="post_ffw_norm"), t.ffn())


ARCHITECTURES = (
    Architecture(
        "olmo",
        _olmo,
        norm=NormKind.LAYER,
        norm_weight=False,
        models="OLMo 1B and 7B",
        differs="layer norms without weights; queries, keys and values within bounds",
    ),
    Architecture(
        "olmo2",
        _olmo2,
        rope_style=RopeStyle.NEOX,
        models="OLMo 2 and 3",
        differs="norms behind blocks, norms of all heads together; OLMo 3: windows",
    ),
    Architecture(
        "exaone4",
        _exaone4,
        rope_style=RopeStyle.NEOX,
        models="EXAONE 4",
        differs="norms behind blocks, norms of heads; in the 32B windows, whose layers alone are turned",
    ),
)
