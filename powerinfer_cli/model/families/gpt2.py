"""GPT-2 and OPT: learned positions, layer norms and biases everywhere, no gate."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Activation, Layer, NormKind, Sequential
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]

OFFSET = 2  # of OPT: row p + 2 of position_embd belongs to position p, as in the original checkpoints


def _gpt2(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=None, bias="required", output_bias="required")
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(gated=False, bias="required"))


def _gpt2_ends(model: ModelReader) -> Ends:
    return model.ends(position_offset=0)


def _opt_ends(model: ModelReader) -> Ends:
    return model.ends(position_offset=OFFSET)


ARCHITECTURES = (
    Architecture(
        "gpt2",
        _gpt2,
        _gpt2_ends,
        rope_style=None,
        norm=NormKind.LAYER,
        norm_bias="required",
        activation=Activation.GELU_TANH,
        models="GPT-2",
        differs="learned positions; layer norms; no gate, GELU; biases",
    ),
    Architecture(
        "opt",
        _gpt2,
        _opt_ends,
        rope_style=None,
        norm=NormKind.LAYER,
        norm_bias="required",
        norm_eps_default=1e-5,  # the original's converter does not write it
        activation=Activation.RELU,
        models="OPT",
        differs="learned positions; layer norms; no gate, ReLU; biases",
    ),
)
