"""Attention over latents on a device: what comes before attention, and behind it. T tokens."""

import torch
from torch import Tensor

from powerinfer_cli.kernels.device import Ops, PlanarRows
from powerinfer_cli.model.blocks import LatentAttention

__all__ = ["kept_and_queries", "values_of_heads"]

Latent = LatentAttention[PlanarRows, Tensor]


def kept_and_queries(ops: Ops, a: Latent, x: Tensor) -> tuple[Tensor, Tensor]:
    """Queries [T, n_head * head_dim], and what is kept of each token, [T, head_dim]; not turned yet."""
    squeezed = x
    if a.squeeze is not None:
        squeezed = ops.norm(a.squeeze.norm, ops.linear(a.squeeze.linear, x))
    asked = ops.linear(a.q, squeezed).view(len(x), a.n_head, -1)
    plain = ops.multiply_heads(a.keys, asked[..., : a.plain].contiguous())
    q = torch.cat((asked[..., a.plain :], plain), -1).flatten(1)
    latent = ops.norm(a.norm, ops.linear(a.latent, x))
    return q, torch.cat((ops.linear(a.turned, x), latent), -1)


def values_of_heads(ops: Ops, a: Latent, attended: Tensor) -> Tensor:
    """What heads make of what they attended to, [T, n_head * head_dim] -> [T, n_head * value_dim]"""
    latents = attended.view(len(attended), a.n_head, -1)[..., a.rope.n_rot :].contiguous()
    return ops.multiply_heads(a.values, latents).flatten(1)
