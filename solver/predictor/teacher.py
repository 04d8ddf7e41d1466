"""What a layer's weights say about its neurons: the linear map whose sign is, nearly or wholly, "active"."""

from typing import TypeAlias, assert_never

import torch
from torch import Tensor

from powerinfer_cli.gguf_io import Tensor as StoredTensor
from powerinfer_cli.model.blocks import Layer, Norm, Parallel, PostNorm, Sequential

__all__ = ["FileLayer", "neuron_rows"]

FileLayer: TypeAlias = Layer[StoredTensor, StoredTensor]


def neuron_rows(layer: FileLayer, unit: Tensor) -> Tensor:
    """rows [n_ff, n_embd] such that rows @ x has the sign of the neuron's gate (its up row where there is no gate).

    unit [N, n_embd]: residuals at RMS 1. Exact for an RMS norm without biases. What a bias adds is the same for every
    token of RMS 1, so it goes along the direction in which residuals are all alike; so does a layer norm's mean.
    """
    norm, neurons = _norm_of(layer), layer.ffn.neurons
    linear = neurons.up if neurons.gate is None else neurons.gate
    rows = matrix = _floats(linear.weight)
    bias, size = torch.zeros(len(matrix)), torch.ones(())
    if linear.bias is not None:
        bias += _floats(linear.bias)
    if norm is not None:
        rows = matrix * _floats(norm.weight)
        if norm.bias is not None:
            bias += matrix @ _floats(norm.bias)
    if norm is not None and norm.kind.is_centred:
        rows -= rows.mean(dim=1, keepdim=True)
        size = unit.var(dim=1, correction=0).sqrt().mean()
    return rows.addr_(bias * size, _constant(unit)) if bias.any() else rows


def _norm_of(layer: FileLayer) -> Norm[StoredTensor] | None:
    """Of what the FFN reads."""
    match layer:
        case Sequential():
            return layer.ffn_norms.before
        case Parallel():
            return layer.norm if layer.ffn_norm is None else layer.ffn_norm
        case PostNorm():
            return None
    assert_never(layer)


def _constant(unit: Tensor) -> Tensor:
    """The direction [n_embd] whose product with each residual is about 1."""
    second = unit.T @ unit / len(unit)
    second.diagonal().add_(1e-4 * second.diagonal().mean())
    found: Tensor = torch.linalg.solve(second, unit.mean(dim=0))
    return found


def _floats(tensor: StoredTensor) -> Tensor:
    """A copy; the mapped file's pages need not stay in memory beside it."""
    found = torch.tensor(tensor.to_float32())
    tensor.drop_pages(0, tensor.nbytes)
    return found
