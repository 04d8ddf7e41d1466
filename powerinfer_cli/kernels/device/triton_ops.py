"""The operations of a layer with Triton's kernels: all of one token's, a few tokens', and dequantising for
batches.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.device import (
    triton_attention,
    triton_experts,
    triton_norm,
    triton_products,
    triton_recurrent,
    triton_sparse,
)
from powerinfer_cli.kernels.device.cache import DeviceCache
from powerinfer_cli.kernels.device.planar import PlanarRows
from powerinfer_cli.kernels.device.reference import DeviceNeurons, Ops
from powerinfer_cli.kernels.device.reference_attention import attention
from powerinfer_cli.kernels.few import ONE_BY_ONE

__all__ = ["TritonOps"]

OLDEST = (3, 3)  # its kernels take tuples
WIDEST = 256  # of a head: what a program keeps of wider ones, as latents are, does not fit registers

if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST:
    raise ImportError(f"Triton {triton.__version__} is older than {OLDEST[0]}.{OLDEST[1]}")


def _attention(
    q: Tensor,
    cache: DeviceCache,
    n_past: Tensor,
    pages: Tensor,
    *,
    limit: int | None = None,
    begin: int = 0,
    out: Tensor | None = None,
    **scores: Any,
) -> Tensor:
    if len(q) == 1 and begin == 0 and cache.head_dim <= WIDEST:
        return triton_attention.attention(q, cache, n_past, pages, **scores, out=out)
    return attention(q, cache, n_past, pages, **scores, limit=limit, begin=begin, out=out)


class TritonOps(Ops):
    """Products of matrices, attention and the delta rule of many tokens stay torch's."""

    name = f"Triton {triton.__version__}"
    widest = WIDEST

    dequantize = staticmethod(triton_products.dequantize)
    matvec = staticmethod(triton_products.matvec)
    chosen_rows = staticmethod(triton_products.chosen_rows)
    activated = staticmethod(triton_sparse.activated)
    sparse_ffn = staticmethod(triton_sparse.sparse_ffn)
    add_experts_of_one = staticmethod(triton_experts.add_experts)
    add_norm = staticmethod(triton_norm.add_norm)
    rope_store = staticmethod(triton_attention.rope_store)
    attention = staticmethod(_attention)
    join = staticmethod(triton_attention.join)
    convolve = staticmethod(triton_recurrent.convolve)
    delta_rule = staticmethod(triton_recurrent.delta_rule)
    scan = staticmethod(triton_recurrent.scan)

    def matmul(self, rows: PlanarRows, x: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """For a few tokens each as it would be alone, rows read once for some: dequantising them would move more."""
        if len(x) > ONE_BY_ONE or (rows.scales is None and rows.kind is not GGMLType.F32):
            return super().matmul(rows, x, bias, out)
        out = torch.empty(len(x), rows.n_rows, device=x.device) if out is None else out
        triton_products.matmul_few(rows, x, bias, out)
        return out

    def multiply_heads(self, rows: PlanarRows, x: Tensor) -> Tensor:
        """For a few tokens without dequantising; see `Ops.multiply_heads`."""
        if len(x) > ONE_BY_ONE:
            return super().multiply_heads(rows, x)
        return triton_products.multiply_heads(rows, x)

    def predict(
        self,
        fc1: PlanarRows,
        fc2: PlanarRows,
        x: Tensor,
        threshold: float,
        modes: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """For one token fused, for a few one by one; see `Ops.predict`."""
        if x.ndim == 1:
            return triton_sparse.predict(fc1, fc2, x, threshold, modes, out)
        if len(x) > ONE_BY_ONE:
            return super().predict(fc1, fc2, x, threshold, modes, out)
        out = torch.empty(len(x), fc2.n_rows, dtype=torch.uint8, device=x.device) if out is None else out
        for t in range(len(x)):
            triton_sparse.predict(fc1, fc2, x[t], threshold, modes, out[t])
        return out

    def sparse_ffn_batch(
        self,
        x: Tensor,
        mask: Tensor | None,
        neurons: DeviceNeurons,
        *,
        entries: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """For a few tokens one by one, so that rows without effect are not read; see `Ops.sparse_ffn_batch`."""
        if len(x) > ONE_BY_ONE:
            return super().sparse_ffn_batch(x, mask, neurons, entries=entries, out=out)
        out = torch.empty(len(x), neurons.down.weight.n_cols, device=x.device) if out is None else out
        counts = []
        for t in range(len(x)):
            own = None if mask is None else mask[t]
            counts.append(self.sparse_ffn(x[t], own, neurons, entries=entries, out=out[t])[1])
        return out, torch.cat(counts)
