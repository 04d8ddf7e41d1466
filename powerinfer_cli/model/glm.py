"""GLM-4: norms before and after both blocks, gate and up fused, neighbours of a part of each head turned."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import Layer, Sequential
from powerinfer_cli.model.tensors import Architecture, LayerReader

__all__ = ["ARCHITECTURES"]


def _glm4(t: LayerReader) -> Layer[Tensor, Tensor]:
    norms = t.norms("attn_norm", "post_attention_norm"), t.norms("ffn_norm", "post_ffw_norm")
    return Sequential(norms[0], t.attention(rope=t.model.rope()), norms[1], t.ffn(fused=True))


ARCHITECTURES = (
    Architecture(
        "glm4",
        _glm4,
        models="GLM 4 0414 (9B and 32B)",
        differs="norms around blocks; gate and up fused; a part of each head turned",
    ),
)
