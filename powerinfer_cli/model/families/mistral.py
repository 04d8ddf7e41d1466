"""Mistral 3 and Ministral 3: llama's blocks, with queries that grow beyond the original context."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import Layer, Sequential, Temperature
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _mistral3(t: LayerReader) -> Layer[Tensor, Tensor]:
    rope, gain = t.model.rope(), t.keys.factor("attention.temperature_scale")
    temperature = Temperature(gain, rope.n_ctx_original) if gain else None
    return Sequential(
        t.norms("attn_norm"), t.attention(rope=rope, temperature=temperature), t.norms("ffn_norm"), t.ffn()
    )


ARCHITECTURES = (
    Architecture(
        "mistral3",
        _mistral3,
        models="Ministral 3, Mistral Small 3.1 and 3.2",
        differs="YaRN; queries grow beyond the original context",
    ),
)
