"""Last layers that attend to the keys and values of earlier ones, as Gemma 3n and 4 have them."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import Rope, SharedAttention
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["shared_attention", "source_of"]

KEY = "attention.shared_kv_layers"
UNUSED = ("attn_k.weight", "attn_v.weight", "attn_k_norm.weight")  # converters write them all the same


def source_of(t: LayerReader, windows: tuple[int | None, ...]) -> int | None:
    """Whose keys and values a layer reads: of the last before those that share, with the same window; None: its own.

    Raises PowerInferError: none is left that others could read, or none with this window.
    """
    n_layer = t.model.sizes.n_layer
    n_shared = t.keys.integer(KEY, 0)
    if n_shared >= n_layer:
        t.keys.fail(f"{KEY} is {n_shared} of {n_layer} layers: none is left whose keys they could read")
    first = n_layer - n_shared
    if t.index < first:
        return None
    found = [i for i in range(first) if windows[i] == windows[t.index]]
    if not found:
        seen = "without a window" if windows[t.index] is None else "with a window"
        t.keys.fail(f"{KEY} is {n_shared}, but no layer before {first} is one {seen}, whose keys layer {t.index} reads")
    return found[-1]


def shared_attention(
    t: LayerReader, source: int, *, rope: Rope | None, scale: float, window: int | None
) -> SharedAttention[Tensor, Tensor]:
    """Heads are of the layer's size. Raises PowerInferError: they do not divide into the source's."""
    n_source = t.model.sizes.n_head_kv[source]
    if t.n_head % n_source:
        t.keys.fail(f"attention.head_count {t.n_head} of layer {t.index} is no multiple of layer {source}'s {n_source}")
    t.model.taken.update(f"blk.{t.index}.{name}" for name in UNUSED)
    n_q = t.n_head * t.head_dim
    q, output = t.linear("attn_q", n_q, t.n_embd), t.linear("attn_output", t.n_embd, n_q)
    norm = t.norm("attn_q_norm", t.head_dim, "none")
    return SharedAttention(t.n_head, t.head_dim, source, n_source, q, output, norm, rope, scale, window)
