"""MiniCPM: llama's blocks with scales of embeddings, residuals and logits."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Layer, Sequential
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _minicpm(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Files from before the keys have the scales of the first models."""
    scale = t.keys.number("residual_scale", 1.4 * t.model.sizes.n_layer**-0.5, low=1e-6, high=1e6)
    attention = t.attention(rope=t.model.rope())
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(), scale)


def _minicpm_ends(model: ModelReader) -> Ends:
    scale = model.keys.number("logit_scale", model.sizes.n_embd / 256, low=1e-6, high=1e6)
    embedding_scale = model.keys.number("embedding_scale", 12.0, low=1e-6, high=1e6)
    return model.ends(embedding_scale=embedding_scale, logit_scale=1 / scale)


DIFFERS = "scales of embeddings, residuals, logits"
ARCHITECTURES = (Architecture("minicpm", _minicpm, _minicpm_ends, models="MiniCPM 1B and 2B", differs=DIFFERS),)
