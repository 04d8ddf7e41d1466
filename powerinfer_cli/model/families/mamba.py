"""Mamba-2, alone in all layers; Falcon-H1: beside attention in each."""

from dataclasses import replace

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import Layer, Norm, Norms, RopeStyle, Sequential
from powerinfer_cli.model.parts.recurrent import mamba2, mixer_alone
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _mamba2(t: LayerReader) -> Layer[Tensor, Tensor]:
    return mixer_alone(t, mamba2(t))


def _falcon_h1(t: LayerReader) -> Layer[Tensor, Tensor]:
    attention = t.attention(rope=t.model.rope(), scale=t.keys.factor("attention.scale"))
    both = replace(attention, beside=mamba2(t, normed=False))
    return Sequential(t.norms("attn_norm"), both, Norms(_ffn_norm(t)), t.ffn())


def _ffn_norm(t: LayerReader) -> Norm[Tensor]:
    """llama.cpp's converter and reader leave out what all other weights have behind their names."""
    name = "ffn_norm" if "ffn_norm" in t else "ffn_norm.weight"
    return Norm(t.arch.norm, t.model.sizes.norm_eps, t.tensor(name, t.n_embd), None)


ARCHITECTURES = (
    Architecture(
        "mamba2",
        _mamba2,
        rope_style=None,
        models="Mamba-2, Mamba-Codestral 7B",
        differs="no attention and no FFN: Mamba-2 alone",
        recurrent=True,
        alone=True,
    ),
    Architecture(
        "falcon-h1",
        _falcon_h1,
        rope_style=RopeStyle.NEOX,
        models="Falcon-H1 0.5B to 34B",
        differs="Mamba-2 beside attention in every layer",
        recurrent=True,
    ),
)
