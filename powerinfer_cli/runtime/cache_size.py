"""How much memory a KV cache takes."""

from powerinfer_cli.kernels.cache import CacheType, value_stride
from powerinfer_cli.model import ModelConfig

__all__ = ["kv_bytes"]


def kv_bytes(
    config: ModelConfig, n_ctx: int, type_k: str = "f32", type_v: str = "f32", n_layer: int | None = None
) -> int:
    """Bytes of a cache for n_ctx positions, of all layers or of n_layer of them."""
    dims = config.head_dim, value_stride(config.head_dim)
    per_head = sum(CacheType(kind).position_bytes(d) for kind, d in zip((type_k, type_v), dims, strict=True))
    return (config.n_layer if n_layer is None else n_layer) * config.n_head_kv * n_ctx * per_head
