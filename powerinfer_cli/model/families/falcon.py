"""Falcon: attention and FFN in parallel, layer norms with bias, fused query-key-value rows, no gate."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import Activation, Layer, NormKind, Parallel, RopeStyle
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _falcon(t: LayerReader) -> Layer[Tensor, Tensor]:
    norm, ffn_norm = t.norm("attn_norm"), None
    if "attn_norm_2.weight" in t:  # Falcon-40B: attn_norm is the FFN's
        norm, ffn_norm = t.norm("attn_norm_2", bias="optional"), norm
    attention = t.attention(rope=t.model.rope(), fused=True)
    return Parallel(norm, attention, ffn_norm, t.ffn(gated=False))


ARCHITECTURES = (
    Architecture(
        "falcon",
        _falcon,
        rope_style=RopeStyle.NEOX,
        norm=NormKind.LAYER,
        norm_bias="required",
        activation=Activation.GELU,
        models="Falcon 7B and 40B, ReluFalcon",
        differs="layer norms; no gate, GELU; attention and FFN side by side",
        neutral={"use_parallel_residual": (True,)},
    ),
)
