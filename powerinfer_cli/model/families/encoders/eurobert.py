"""EuroBERT: llama's layers that see both sides. Embedding Gemma: Gemma 3's, with windows of both sides."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Activation, Layer, RopeStyle, Sequential
from powerinfer_cli.model.families.encoders.ends import encoder_ends
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _eurobert(t: LayerReader) -> Layer[Tensor, Tensor]:
    return Sequential(t.norms("attn_norm"), t.attention(rope=t.model.rope()), t.norms("ffn_norm"), t.ffn())


def _eurobert_ends(model: ModelReader) -> Ends:
    return encoder_ends(model, embedding_norm=False, norm_name="output_norm")


def _gemma(t: LayerReader) -> Layer[Tensor, Tensor]:
    window = t.window(period=6)
    rope = t.model.rope() if window is None else t.model.rope(base_key="rope.freq_base_swa", scaled=False)
    attention = t.attention(rope=rope, window=window, norms=t.head_norms())
    norms = t.norms("attn_norm", "post_attention_norm"), t.norms("ffn_norm", "post_ffw_norm")
    return Sequential(norms[0], attention, norms[1], t.ffn())


def _gemma_ends(model: ModelReader) -> Ends:
    return encoder_ends(model, embedding_norm=False, norm_name="output_norm", scale=model.sizes.n_embd**0.5)


ARCHITECTURES = (
    Architecture(
        "eurobert",
        _eurobert,
        _eurobert_ends,
        rope_style=RopeStyle.NEOX,
        causal=False,
        models="EuroBERT, Jina embeddings 5",
        differs="sees both sides",
    ),
    Architecture(
        "gemma-embedding",
        _gemma,
        _gemma_ends,
        rope_style=RopeStyle.NEOX,
        activation=Activation.GELU_TANH,
        causal=False,
        models="Embedding Gemma",
        differs="as gemma3; sees both sides, windows too",
    ),
)
