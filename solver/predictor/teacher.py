"""What a layer's weights say about its neurons: the linear map whose sign is, nearly or wholly, "active"."""

import torch
from torch import Tensor

from powerinfer_cli.gguf_io import Tensor as StoredTensor
from powerinfer_cli.model import LayerWeights, ModelConfig, NormKind

__all__ = ["neuron_rows"]


def neuron_rows(weights: LayerWeights, config: ModelConfig, unit: Tensor) -> Tensor:
    """rows [n_ff, n_embd] such that rows @ x has the sign of the neuron's gate (its up row where there is no gate).

    unit [N, n_embd]: residuals at RMS 1. Exact for an RMS norm without biases. What a bias adds is the same for every
    token of RMS 1, so it goes along the direction in which residuals are all alike; so does a layer norm's mean.
    """
    norm = weights.ffn_norm or weights.attn_norm
    linear = weights.ffn_gate or weights.ffn_up
    matrix, scale = _floats(linear.weight), _floats(norm.weight)
    bias = torch.zeros(len(matrix))
    if norm.bias is not None:
        bias += matrix @ _floats(norm.bias)
    if linear.bias is not None:
        bias += _floats(linear.bias)
    rows = matrix * scale
    size = torch.ones(())
    if config.architecture.norm is NormKind.LAYER:
        rows -= rows.mean(dim=1, keepdim=True)
        size = unit.var(dim=1, correction=0).sqrt().mean()
    return rows.addr_(bias * size, _constant(unit)) if bias.any() else rows


def _constant(unit: Tensor) -> Tensor:
    """The direction [n_embd] whose product with each residual is about 1."""
    second = unit.T @ unit / len(unit)
    second.diagonal().add_(1e-4 * second.diagonal().mean())
    found: Tensor = torch.linalg.solve(second, unit.mean(dim=0))
    return found


def _floats(tensor: StoredTensor) -> Tensor:
    return torch.tensor(tensor.to_float32())
