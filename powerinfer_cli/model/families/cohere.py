"""Command R and its second generation: attention and FFN side by side behind one layer norm without bias."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Architecture, Ends
from powerinfer_cli.model.blocks import Layer, NormKind, Parallel
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["ARCHITECTURES"]


def _command_r(t: LayerReader) -> Layer[Tensor, Tensor]:
    """The largest norms its heads, each by a weight of its own."""
    norms = t.own_head_norms() if "attn_q_norm.weight" in t else None
    return Parallel(t.norm("attn_norm"), t.attention(rope=t.model.rope(), norms=norms), None, t.ffn())


def _cohere2(t: LayerReader) -> Layer[Tensor, Tensor]:
    """Three of four layers have a window; only they turn."""
    window = t.window(period=4)
    rope = None if window is None else t.model.rope()
    return Parallel(t.norm("attn_norm"), t.attention(rope=rope, window=window), None, t.ffn())


def _ends(model: ModelReader) -> Ends:
    return model.ends(logit_scale=model.keys.factor("logit_scale") or 1.0)


BESIDE = "layer norms without bias, attention and FFN side by side"
ARCHITECTURES = (
    Architecture("command-r", _command_r, _ends, norm=NormKind.LAYER, models="Command R and R+, Aya", differs=BESIDE),
    Architecture(
        "cohere2",
        _cohere2,
        _ends,
        norm=NormKind.LAYER,
        models="Command R7B, Command A",
        differs=f"{BESIDE}; windows, whose layers alone are turned",
    ),
)
