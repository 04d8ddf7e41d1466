"""Keys and values of all positions so far, float32, in one allocation of the full context."""

from collections.abc import Callable

import torch
from torch import Tensor

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import ModelConfig
from powerinfer_cli.runtime.cache_size import kv_bytes

__all__ = ["KVCache"]


class KVCache:
    """k, v [n_layer, n_ctx, n_head_kv, head_dim]. `n_past` positions are filled; pages beyond cost no memory yet."""

    def __init__(self, config: ModelConfig, n_ctx: int) -> None:
        shape = (config.n_layer, n_ctx, config.n_head_kv, config.head_dim)
        try:
            self.k, self.v = torch.empty(shape), torch.empty(shape)
        except RuntimeError as error:
            size = kv_bytes(config, n_ctx) / 2**30
            raise PowerInferError(
                f"no memory for a context of {n_ctx} tokens ({size:.1f} GiB): choose a smaller -c"
            ) from error
        self.n_ctx = n_ctx
        self.n_past = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values [T, n_head_kv, head_dim] behind n_past; all of that layer's so far."""
        end = self.n_past + len(k)
        self.k[layer, self.n_past : end] = k
        self.v[layer, self.n_past : end] = v
        return self.k[layer, :end], self.v[layer, :end]

    def shift(self, n_keep: int, n_discard: int, turn_back: Callable[[Tensor], Tensor]) -> None:
        """Drop positions [n_keep, n_keep + n_discard) and move the rest down; `turn_back` turns keys [N, H, D] back."""
        start, moved = n_keep + n_discard, self.n_past - n_keep - n_discard
        for layer in range(len(self.k)):
            self.k[layer, n_keep : n_keep + moved] = turn_back(self.k[layer, start : self.n_past])
            self.v[layer, n_keep : n_keep + moved] = self.v[layer, start : self.n_past].clone()
        self.n_past -= n_discard
