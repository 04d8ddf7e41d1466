"""Nemotron-H: each layer is Mamba-2, or attention without rope, or an FFN without a gate; with experts or without."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import FFN, Activation, Gating, Layer, NoMixer, Norms, Sequential
from powerinfer_cli.model.parts.experts import expert_width, routed, shared_width
from powerinfer_cli.model.parts.recurrent import mamba2, mixer_alone
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _layer(t: LayerReader) -> Layer[Tensor, Tensor]:
    scale = t.keys.factor("attention.scale")
    if t.n_ff:
        return Sequential(Norms(None), NoMixer(), t.norms("attn_norm"), _ffn(t))
    return mixer_alone(t, t.attention(rope=None, scale=scale) if t.n_head_kv else mamba2(t))


def _ffn(t: LayerReader) -> FFN[Tensor, Tensor]:
    if t.model.arch.name == "nemotron_h":
        return t.ffn(gated=False)
    width = expert_width(t)
    shared = shared_width(t, width)
    latent = t.keys.integer("moe_latent_size", 0, high=t.n_embd)
    return routed(t, width=width, gating=Gating.SIGMOID, normed=False, shared=shared, gated=False, latent=latent)


SQUARED = Activation.RELU_SQUARED
DIFFERS = "layers are Mamba-2, attention without rope, or an FFN; no gate, ReLU squared"
ARCHITECTURES = (
    Architecture(
        "nemotron_h",
        _layer,
        rope_style=None,
        activation=SQUARED,
        sparse_activation=SQUARED,
        models="Nemotron-H, Nemotron Nano 2",
        differs=DIFFERS,
        recurrent=True,
        alone=True,
        eps_of_layer_norms=True,
    ),
    Architecture(
        "nemotron_h_moe",
        _layer,
        rope_style=None,
        activation=SQUARED,
        models="Nemotron 3 Nano 30B-A3B, Super 120B-A12B",
        differs=f"{DIFFERS}; experts, on latents or not",
        recurrent=True,
        alone=True,
        experts=True,
        guessing_layers=True,
        eps_of_layer_norms=True,
    ),
)
