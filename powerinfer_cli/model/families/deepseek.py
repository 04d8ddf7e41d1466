"""DeepSeek 2 and 3, Kimi K2, GLM 4.7 Flash: attention over latents; experts beside shared ones, behind dense layers."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import FFN, Gating, Layer, Sequential
from powerinfer_cli.model.parts.experts import expert_width, leads_dense, routed, shared_width
from powerinfer_cli.model.parts.latent import latent_attention
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _deepseek2(t: LayerReader) -> Layer[Tensor, Tensor]:
    """With YaRN's multiplier in the file, scores grow by it instead of what is turned."""
    multiplier = t.keys.number("rope.scaling.yarn_log_multiplier", 0.0, low=0.0)
    attention = latent_attention(t, t.model.rope(gain=1.0 if multiplier else None), multiplier)
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), _ffn(t))


def _ffn(t: LayerReader) -> FFN[Tensor, Tensor]:
    """Files of version 2 have no biases of the choice, name no gating, and take groups by their best."""
    if leads_dense(t):
        return t.ffn()
    width, third = expert_width(t), "exp_probs_b.bias" in t
    gating = Gating.SIGMOID if third else Gating.SOFTMAX
    best = 2 if third else 1
    return routed(t, width=width, gating=gating, normed=False, shared=shared_width(t, width), group_best=best)


ARCHITECTURES = (
    Architecture(
        "deepseek2",
        _deepseek2,
        models="DeepSeek V2 (Lite), V3, R1, Kimi K2, GLM 4.7 Flash",
        differs="attention over latents; experts behind the first layers, and some that all tokens share",
        experts=True,
        guessing_layers=True,
        latents=True,
    ),
)
