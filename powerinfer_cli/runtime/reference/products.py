"""Products and norms of blocks over matrices."""

from typing import assert_never

import torch
from torch import Tensor

from powerinfer_cli.kernels.matrix import Matrix
from powerinfer_cli.kernels.reference import layer_norm, rms_norm
from powerinfer_cli.model import NormKind
from powerinfer_cli.model.blocks import Linear, Norm

__all__ = ["multiply", "normed"]


def multiply(linear: Linear[Matrix, Tensor], x: Tensor) -> Tensor:
    """x @ W.T (+ bias)."""
    y = linear.weight.matmul(x)
    return y if linear.bias is None else y + linear.bias


def normed(norm: Norm[Tensor], x: Tensor) -> Tensor:
    """Over the last dimension; a weight may be of more of them."""
    match norm.kind:
        case NormKind.RMS:
            y = rms_norm(x, norm.weight, norm.eps)
        case NormKind.LAYER:
            y = layer_norm(x, torch.ones(x.shape[-1]), None, norm.eps) * norm.weight
        case _:
            assert_never(norm.kind)
    return y if norm.bias is None else y + norm.bias
