"""Apertus: llama's blocks with norms of heads and, instead of a gate, xIELU, whose numbers are trained."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import XIELU, Activation, Layer, RopeStyle, Sequential
from powerinfer_cli.model.keys import Keys
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _apertus(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope(), norms=t.head_norms())
    return Sequential(t.norms("attn_norm"), attention, t.norms("ffn_norm"), t.ffn(gated=False, curve=_curve(t)))


def _curve(t: LayerReader) -> XIELU:
    """Its keys have no architecture in front."""
    keys, n_layer = Keys(t.model.gguf, "xielu"), t.model.sizes.n_layer
    names = ("alpha_n", "alpha_p", "beta", "eps")
    return XIELU.trained(*(keys.numbers(name, n_layer, low=-100.0, high=100.0)[t.index] for name in names))


ARCHITECTURES = (
    Architecture(
        "apertus",
        _apertus,
        rope_style=RopeStyle.NEOX,
        activation=Activation.XIELU,
        sparse_activation=Activation.XIELU,
        models="Apertus 8B and 70B",
        differs="norms of heads; no gate, xIELU with numbers of each layer's own",
    ),
)
