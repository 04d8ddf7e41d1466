"""The sparse FFN over chosen rows in torch, for the reference engine. Twin of `reference.sparse_ffn`."""

import torch
from torch import Tensor

from powerinfer_cli.kernels.matrix import Matrix
from powerinfer_cli.kernels.reference import activate, neuron_values
from powerinfer_cli.model.blocks import Linear, Neurons

__all__ = ["sparse_ffn_batch", "sparse_ffn_token"]


def _rows(linear: Linear[Matrix, Tensor], indices: Tensor, x: Tensor) -> Tensor:
    """x . chosen rows (+ bias). x [T, n_embd] -> [T, len(indices)]"""
    product = x @ linear.weight.rows(indices).T
    return product if linear.bias is None else product + linear.bias[indices]


def sparse_ffn_token(x: Tensor, active: Tensor, neurons: Neurons[Matrix, Tensor]) -> tuple[Tensor, int]:
    """One token. x [1, n_embd], active int64 indices, ascending -> (y [1, n_embd], neurons that fired).

    The gate's rows of active neurons are read first; where the activation has exact zeros, a neuron whose gate is 0
    costs neither its up nor its down row. Under the others every active neuron fires.
    """
    first = neurons.up if neurons.gate is None else neurons.gate
    value = activate(_rows(first, active, x), neurons.activation, neurons.curve)
    if neurons.activation.has_exact_zeros:
        fired = value[0].nonzero()[:, 0]
        value, active = value[:, fired], active[fired]
    if neurons.gate is not None:
        up = _rows(neurons.up, active, x)
        value = value * (torch.relu(up) if neurons.relu_on_up else up)
    return value @ neurons.down.weight.rows(active), active.numel()


def sparse_ffn_batch(x: Tensor, mask: Tensor, neurons: Neurons[Matrix, Tensor]) -> tuple[Tensor, int]:
    """T tokens. x [T, n_embd], mask bool [T, n_ff] -> (y [T, n_embd], neurons that fired, over all tokens).

    Rows are read once for the batch, for neurons that any token needs; a token's own set decides what counts for it.
    """
    needed = mask.any(0).nonzero()[:, 0]
    mask = mask[:, needed]
    up = _rows(neurons.up, needed, x)
    gate = None if neurons.gate is None else _rows(neurons.gate, needed, x)
    firing = mask
    if neurons.activation.has_exact_zeros:
        firing = mask & ((up if gate is None else gate) > neurons.threshold)
    value = neuron_values(gate, up, neurons.activation, relu_on_up=neurons.relu_on_up, curve=neurons.curve)
    return (value * mask) @ neurons.down.weight.rows(needed), int(firing.count_nonzero())
