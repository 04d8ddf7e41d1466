"""Qwen 3-Next, 3.5 and 3.6: gated delta nets in three of four layers, attention with a gated output in the others."""

from functools import partial

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import FFN, Layer, Mixer, RopeStyle, Sequential
from powerinfer_cli.model.parts.experts import expert_width, routed, shared_width
from powerinfer_cli.model.parts.recurrent import delta_net, is_recurrent
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["ARCHITECTURES"]


def _mixer(t: LayerReader, *, next_form: bool) -> Mixer[Tensor, Tensor]:
    if is_recurrent(t):
        return delta_net(t, tiled=not next_form, together=next_form)
    rope = t.model.rope()
    if not next_form:  # of texts, all sections have equal positions
        sections = t.keys.integers("rope.dimension_sections", 4, 0)
        if sum(sections) not in (0, rope.n_rot // 2):
            t.keys.fail(f"rope.dimension_sections has {sum(sections)} pairs of {rope.n_rot // 2}")
    return t.attention(rope=rope, norms=t.head_norms(), gated=True)


def _layer(t: LayerReader, ffn: FFN[Tensor, Tensor], *, next_form: bool = False) -> Layer[Tensor, Tensor]:
    mixer = _mixer(t, next_form=next_form)
    return Sequential(t.norms("attn_norm"), mixer, t.norms("post_attention_norm"), ffn)


def _experts(t: LayerReader) -> FFN[Tensor, Tensor]:
    width = expert_width(t)
    return routed(t, width=width, normed=True, shared=shared_width(t, width, t.n_ff), shared_gate=True)


def _qwen35moe(t: LayerReader, *, next_form: bool = False) -> Layer[Tensor, Tensor]:
    return _layer(t, _experts(t), next_form=next_form)


def _qwen35(t: LayerReader) -> Layer[Tensor, Tensor]:
    return _layer(t, t.ffn())


DIFFERS = "gated delta nets in most layers; a gate on attention"
MORE = f"{DIFFERS}; experts"
ALIKE = partial(Architecture, rope_style=RopeStyle.NEOX, recurrent=True, guessing_layers=True)
ARCHITECTURES = (
    ALIKE("qwen3next", partial(_qwen35moe, next_form=True), models="Qwen 3-Next 80B-A3B", differs=MORE, experts=True),
    ALIKE("qwen35", _qwen35, models="Qwen 3.5 and 3.6, dense", differs=DIFFERS),
    ALIKE("qwen35moe", _qwen35moe, models="Qwen 3.5 and 3.6 with experts", differs=MORE, experts=True),
)
