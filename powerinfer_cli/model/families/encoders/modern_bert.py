"""ModernBERT: norms before blocks, rope, windows in two of three layers, gated neurons, no biases."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Activation, Layer, NormKind, Norms, RopeStyle, Sequential
from powerinfer_cli.model.families.encoders.ends import encoder_ends
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]

PERIOD = 3  # layers, the first of which sees everything


def _modern(t: LayerReader) -> Layer[Tensor, Tensor]:
    """The first layer reads embeddings, which are normed already."""
    window = t.window(period=PERIOD, first=True)
    base = t.keys.number("rope.freq_base", 10000.0, low=1.001)
    rope = t.model.rope() if window is None else t.model.rope(base_key="rope.freq_base_swa", base=base, scaled=False)
    attention = t.attention(rope=rope, window=window)
    before = Norms[Tensor](None) if t.index == 0 else t.norms("attn_norm")
    return Sequential(before, attention, t.norms("ffn_norm"), t.ffn(fused=True))


def _ends(model: ModelReader) -> Ends:
    return encoder_ends(model, norm_name="output_norm")


ARCHITECTURES = (
    Architecture(
        "modern-bert",
        _modern,
        _ends,
        rope_style=RopeStyle.NEOX,
        norm=NormKind.LAYER,
        norm_bias="optional",
        activation=Activation.GELU,
        causal=False,
        models="ModernBERT, GTE ModernBERT, Granite Embedding R2",
        differs="sees both sides; layer norms, also of embeddings; windows of both sides with a rope of their own",
    ),
)
