"""The feed-forward part of a layer: dense, or sparse by its predictor."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from powerinfer_cli.kernels.chosen_rows import NeuronRows, sparse_ffn_batch, sparse_ffn_token
from powerinfer_cli.kernels.matrix import Matrix
from powerinfer_cli.kernels.reference import neuron_values
from powerinfer_cli.model import Activation
from powerinfer_cli.runtime.stats import SparsityStats

__all__ = ["FFN", "DenseFFN", "SparseFFN"]


class FFN(Protocol):
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """x: the normed input; residual: what predictors look at. Both [T, n_embd] -> [T, n_embd]"""

    def values(self, x: Tensor) -> Tensor:
        """What every neuron is, whatever a predictor says. x [T, n_embd] -> [T, n_ff]"""

    def down_of(self, values: Tensor) -> Tensor:
        """The FFN's output for such values. [T, n_ff] -> [T, n_embd]"""


@dataclass(frozen=True)
class DenseFFN:
    """act(gate) * up, or act(up) without a gate, then down. Every neuron is computed."""

    gate: Matrix | None
    up: Matrix
    down: Matrix
    gate_bias: Tensor | None
    up_bias: Tensor | None
    down_bias: Tensor | None
    activation: Activation
    relu_on_up: bool

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.down_of(self.values(x))

    def values(self, x: Tensor) -> Tensor:
        gate = None if self.gate is None else _linear(self.gate, self.gate_bias, x)
        return neuron_values(gate, _linear(self.up, self.up_bias, x), self.activation, relu_on_up=self.relu_on_up)

    def down_of(self, values: Tensor) -> Tensor:
        return _linear(self.down, self.down_bias, values)


@dataclass(frozen=True)
class SparseFFN:
    """Neurons, of which only those that the predictor lets through are computed.

    `ask` lists the neurons the predictor is asked about; `always` [n_ff] marks those that are computed regardless.
    What is in neither is never computed: its statistics say that it is never active.
    """

    neurons: NeuronRows
    fc1: Matrix
    fc2: Matrix
    threshold: float
    down_bias: Tensor | None
    ask: Tensor | None  # int64 indices; None asks about all
    always: Tensor | None  # bool [n_ff]
    layer: int  # its number
    stats: SparsityStats = field(default_factory=SparsityStats)

    def predict(self, residual: Tensor) -> Tensor:
        """bool [T, n_ff]: which neurons to compute for each token."""
        hidden = torch.relu(self.fc1.matmul(residual))
        if self.ask is None:
            mask = self.fc2.matmul(hidden) >= self.threshold
        else:
            mask = torch.zeros(len(residual), self.fc2.n_rows, dtype=torch.bool)
            mask[:, self.ask] = hidden @ self.fc2.rows(self.ask).T >= self.threshold
        return mask if self.always is None else mask | self.always

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        mask = self.predict(residual)
        if len(x) == 1:
            y, fired = sparse_ffn_token(x, mask[0].nonzero()[:, 0], self.neurons)
        else:
            y, fired = sparse_ffn_batch(x, mask, self.neurons)
        self.stats.grow(self.layer + 1)
        self.stats.add([self.layer], mask.numel(), np.array([[int(mask.count_nonzero()), fired]]))
        return y if self.down_bias is None else y + self.down_bias

    def values(self, x: Tensor) -> Tensor:
        n = self.neurons
        gate = None if n.gate is None else _linear(n.gate, n.gate_bias, x)
        return neuron_values(gate, _linear(n.up, n.up_bias, x), n.activation, relu_on_up=n.relu_on_up)

    def down_of(self, values: Tensor) -> Tensor:
        y = values @ self.neurons.down_t.rows(torch.arange(values.shape[1]))
        return y if self.down_bias is None else y + self.down_bias


def _linear(matrix: Matrix, bias: Tensor | None, x: Tensor) -> Tensor:
    y = matrix.matmul(x)
    return y if bias is None else y + bias
