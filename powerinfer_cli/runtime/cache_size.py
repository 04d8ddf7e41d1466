"""How much memory a KV cache takes."""

from collections.abc import Sequence
from typing import Any

from powerinfer_cli.kernels.cache import CacheType, value_stride
from powerinfer_cli.model.blocks import Layer

__all__ = ["kv_bytes"]


def kv_bytes(layers: Sequence[Layer[Any, Any]], n_ctx: int, type_k: str = "f32", type_v: str = "f32") -> int:
    """Bytes of these layers' cache for n_ctx positions."""
    return n_ctx * sum(_position_bytes(layer, type_k, type_v) for layer in layers)


def _position_bytes(layer: Layer[Any, Any], type_k: str, type_v: str) -> int:
    head_dim = layer.attention.head_dim
    dims = head_dim, value_stride(head_dim)
    per_head = sum(CacheType(kind).position_bytes(d) for kind, d in zip((type_k, type_v), dims, strict=True))
    return layer.attention.n_head_kv * per_head
