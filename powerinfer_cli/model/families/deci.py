"""Llama-Nemotron, DeciLM: llama's blocks, heads and neurons by layer; a search took attention out of some layers."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import Layer, LinearMixer, Mixer, NoMixer, Norms, Sequential
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _deci(t: LayerReader) -> Layer[Tensor, Tensor]:
    if t.n_ff == 0:
        t.keys.fail(f"feed_forward_length is 0 for layer {t.index}, which has attention: not supported")
    norms: Norms[Tensor] = t.norms("attn_norm") if t.n_head else Norms(None)
    return Sequential(norms, _mixer(t), t.norms("ffn_norm"), t.ffn())


def _mixer(t: LayerReader) -> Mixer[Tensor, Tensor]:
    """Without heads there is none; with queries' alone, a matrix."""
    scale = t.keys.factor("attention.scale")
    if t.n_head == 0:
        return NoMixer()
    if t.n_head_kv == 0:
        return LinearMixer(t.linear("attn_output", t.n_embd, t.n_embd))
    return t.attention(rope=t.model.rope(), scale=scale)


ARCHITECTURES = (
    Architecture(
        "deci",
        _deci,
        models="Llama-3.3-Nemotron-Super 49B, Llama-3.1-Nemotron 51B, DeciLM 7B",
        differs="heads and neurons by layer; layers without attention",
        gaps=True,
    ),
)
