"""Sums and norms in Triton: one program a token, the whole vector in its registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from powerinfer_cli.kernels.device.triton_rows import launch
from powerinfer_cli.model import NormKind

__all__ = ["add_norm"]


def add_norm(
    x: Tensor,
    adds: tuple[Tensor, ...],
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    kind: NormKind,
    out: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> Tensor:
    """x += scale * each of adds, in their order; then x's norm over the last dimension, to out, which may be x.

    x and adds [T, n] or [n].
    """
    out = torch.empty_like(x) if out is None else out
    n = x.shape[-1]
    width = triton.next_power_of_2(n)
    warps = max(1, min(16, width // 256))
    launch(
        _add_norm,
        (x.numel() // n,),
        x,
        tuple(adds),
        weight,
        bias,
        out,
        n,
        eps,
        scale,
        not kind.is_centred,
        width,
        warps=warps,
    )
    return out


@triton.jit
def _add_norm(x, adds, weight, bias, out, n, eps, scale, RMS: tl.constexpr, WIDTH: tl.constexpr):
    i = tl.arange(0, WIDTH)
    inside = i < n
    at = tl.program_id(0).to(tl.int64) * n + i
    total = tl.load(x + at, mask=inside, other=0)
    if len(adds) > 0:
        for k in tl.static_range(len(adds)):
            total += scale * tl.load(adds[k] + at, mask=inside, other=0)
        tl.store(x + at, total, mask=inside)
    if not RMS:
        total = tl.where(inside, total - tl.sum(total) / n, 0)
    normed = total * tl.rsqrt(tl.sum(total * total) / n + eps) * tl.load(weight + i, mask=inside, other=0)
    if bias is not None:
        normed += tl.load(bias + i, mask=inside, other=0)
    tl.store(out + at, normed, mask=inside)
