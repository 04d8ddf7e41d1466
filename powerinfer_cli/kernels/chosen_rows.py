"""The sparse FFN over chosen rows in torch, for the reference engine. Twin of `reference.sparse_ffn`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from powerinfer_cli.kernels.matrix import Matrix
from powerinfer_cli.kernels.reference import activate, neuron_values
from powerinfer_cli.model import Activation

__all__ = ["NeuronRows", "sparse_ffn_batch", "sparse_ffn_token"]


@dataclass(frozen=True)
class NeuronRows:
    """The rows that make a layer's neurons, each matrix [n_ff, n_embd]; biases [n_ff] where there are any."""

    gate: Matrix | None
    up: Matrix
    down_t: Matrix
    gate_bias: Tensor | None
    up_bias: Tensor | None
    relu_on_up: bool
    activation: Activation = Activation.RELU


def _rows(matrix: Matrix, bias: Tensor | None, indices: Tensor, x: Tensor) -> Tensor:
    """x . chosen rows (+ bias). x [T, n_embd] -> [T, len(indices)]"""
    product = x @ matrix.rows(indices).T
    return product if bias is None else product + bias[indices]


def sparse_ffn_token(x: Tensor, active: Tensor, neurons: NeuronRows) -> tuple[Tensor, int]:
    """One token. x [1, n_embd], active int64 indices, ascending -> (y [1, n_embd], neurons that fired).

    The gate's rows of active neurons are read first; where the activation has exact zeros, a neuron whose gate is 0
    costs neither its up nor its down row. Under the others every active neuron fires.
    """
    first = neurons.up if neurons.gate is None else neurons.gate
    first_bias = neurons.up_bias if neurons.gate is None else neurons.gate_bias
    value = activate(_rows(first, first_bias, active, x), neurons.activation)
    if neurons.activation.has_exact_zeros:
        fired = value[0].nonzero()[:, 0]
        value, active = value[:, fired], active[fired]
    if neurons.gate is not None:
        up = _rows(neurons.up, neurons.up_bias, active, x)
        value = value * (torch.relu(up) if neurons.relu_on_up else up)
    return value @ neurons.down_t.rows(active), active.numel()


def sparse_ffn_batch(x: Tensor, mask: Tensor, neurons: NeuronRows) -> tuple[Tensor, int]:
    """T tokens. x [T, n_embd], mask bool [T, n_ff] -> (y [T, n_embd], neurons that fired, over all tokens).

    Rows are read once for the batch, for neurons that any token needs; a token's own set decides what counts for it.
    """
    needed = mask.any(0).nonzero()[:, 0]
    mask = mask[:, needed]
    up = _rows(neurons.up, neurons.up_bias, needed, x)
    gate = None if neurons.gate is None else _rows(neurons.gate, neurons.gate_bias, needed, x)
    firing = mask
    if neurons.activation.has_exact_zeros:
        firing = mask & ((up if gate is None else gate) > 0)
    value = neuron_values(gate, up, neurons.activation, relu_on_up=neurons.relu_on_up)
    return (value * mask) @ neurons.down_t.rows(needed), int(firing.count_nonzero())
