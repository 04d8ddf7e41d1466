"""Keys and values of all sequences' positions so far, float32, in one allocation a layer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model.blocks import Layer
from powerinfer_cli.runtime.context.cache_size import kv_bytes
from powerinfer_cli.runtime.context.pages import Extent

__all__ = ["KVCache"]


class KVCache:
    """k, v: of each layer [n_cells, n_head_kv, head_dim]. Who is in which cell is for others to know."""

    def __init__(self, layers: Sequence[Layer[Any, Any]], extent: Extent) -> None:
        attentions = [layer.attention for layer in layers]
        shapes = [(extent.n_cells(one.window), one.n_head_kv, one.head_dim) for one in attentions]
        try:  # what is not written to costs no memory
            self.k, self.v = ([torch.empty(shape) for shape in shapes] for _ in range(2))
        except RuntimeError as error:
            size = kv_bytes(layers, extent) / 2**30
            raise PowerInferError(
                f"no memory for a context of {extent.n_ctx} tokens ({size:.1f} GiB): choose a smaller one (-c, n_ctx)"
            ) from error

    def store(self, layer: int, k: Tensor, v: Tensor, cells: Tensor) -> None:
        """Put one layer's new keys and values [T, n_head_kv, head_dim] into cells int64 [T]."""
        self.k[layer][cells], self.v[layer][cells] = k, v

    def read(self, layer: int, cells: Tensor) -> tuple[Tensor, Tensor]:
        """What is in cells int64 [S], [S, n_head_kv, head_dim]."""
        return self.k[layer][cells], self.v[layer][cells]

    def move(self, layer: int, source: Tensor, target: Tensor, turn_back: Callable[[Tensor], Tensor]) -> None:
        """Copy from cells to as many others; `turn_back` turns keys [N, H, D] back."""
        k, v = self.k[layer], self.v[layer]
        k[target], v[target] = turn_back(k[source]), v[source]
