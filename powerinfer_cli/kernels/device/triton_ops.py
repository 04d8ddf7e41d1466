"""The operations of a layer with Triton's kernels: all of one token's, and dequantising for batches."""

import torch
import triton
from torch import Tensor

from powerinfer_cli.kernels.device import triton_attention, triton_norm, triton_products, triton_sparse
from powerinfer_cli.kernels.device.cache import DeviceCache
from powerinfer_cli.kernels.device.planar import PlanarRows
from powerinfer_cli.kernels.device.reference import Ops
from powerinfer_cli.kernels.device.reference_attention import attention

__all__ = ["TritonOps"]

FEW = 4  # tokens
OLDEST = (3, 3)  # its kernels take tuples

if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST:
    raise ImportError(f"Triton {triton.__version__} is older than {OLDEST[0]}.{OLDEST[1]}")


def _attention(
    q: Tensor,
    cache: DeviceCache,
    n_past: Tensor,
    pages: Tensor,
    *,
    limit: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    if len(q) == 1:
        return triton_attention.attention(q, cache, n_past, pages, out)
    return attention(q, cache, n_past, pages, limit=limit, out=out)


class TritonOps(Ops):
    """Products of matrices and attention of many tokens stay torch's."""

    name = f"Triton {triton.__version__}"

    dequantize = staticmethod(triton_products.dequantize)
    matvec = staticmethod(triton_products.matvec)
    chosen_rows = staticmethod(triton_products.chosen_rows)
    activated = staticmethod(triton_sparse.activated)
    sparse_ffn = staticmethod(triton_sparse.sparse_ffn)
    add_norm = staticmethod(triton_norm.add_norm)
    rope_store = staticmethod(triton_attention.rope_store)
    attention = staticmethod(_attention)

    def matmul(self, rows: PlanarRows, x: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """For a few tokens each by itself: that reads quantised rows less often than dequantising them would."""
        if len(x) > FEW or rows.scales is None:
            return super().matmul(rows, x, bias, out)
        out = torch.empty(len(x), rows.n_rows, device=x.device) if out is None else out
        for t in range(len(x)):
            self.matvec(rows, x[t], bias, out[t])
        return out

    def predict(
        self,
        fc1: PlanarRows,
        fc2: PlanarRows,
        x: Tensor,
        threshold: float,
        modes: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """For one token fused; see `Ops.predict`."""
        if x.ndim == 1:
            return triton_sparse.predict(fc1, fc2, x, threshold, modes, out)
        return super().predict(fc1, fc2, x, threshold, modes, out)
