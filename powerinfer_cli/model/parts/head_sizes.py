"""Heads of layers with a window, of another size than those of layers that see everything."""

from powerinfer_cli.model.keys import MAX_SIZE
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["windowed_head_dim"]


def windowed_head_dim(t: LayerReader) -> int:
    """Their own, or all layers'. Raises PowerInferError: values are of another size than keys."""
    found = t.keys.integer("attention.key_length_swa", t.head_dim, low=1, high=MAX_SIZE)
    values = t.keys.integer("attention.value_length_swa", found, low=1, high=MAX_SIZE)
    if values != found:
        other = f"{t.arch.name}.attention.key_length_swa {found}"
        t.keys.fail(f"attention.value_length_swa {values} differs from {other}: not supported")
    return found
