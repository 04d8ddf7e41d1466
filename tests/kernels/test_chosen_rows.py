"""The sparse FFN over chosen rows against its plain twin, on odd sizes, with what it must not read poisoned by NaN."""

import numpy as np
import pytest
import torch
from torch import Tensor

from powerinfer_cli.kernels.chosen_rows import sparse_ffn_batch, sparse_ffn_token
from powerinfer_cli.kernels.matrix import Matrix
from powerinfer_cli.model import Activation
from powerinfer_cli.model.blocks import Linear, Neurons
from tests.helpers.kernels.matrices import stored
from tests.helpers.rounding import Interval, curve_of, sparse_ffn

RELU, SILU, GELU = Activation.RELU, Activation.SILU, Activation.GELU
SQUARED, TANH = Activation.RELU_SQUARED, Activation.GELU_TANH
Kind = tuple[bool, bool, bool, Activation]
KINDS: list[Kind] = [  # gated, relu_on_up, biases, activation
    (True, False, False, RELU),
    (True, False, True, RELU),
    (True, True, False, RELU),
    (False, False, True, RELU),
    (False, False, False, RELU),
    (True, False, True, SILU),
    (False, False, True, SQUARED),
    (True, False, False, SQUARED),
    (True, False, False, TANH),
    (True, True, False, GELU),
    (False, False, True, GELU),
    (False, False, False, SILU),
    (False, False, True, Activation.XIELU),
]


class Weights:
    """Random neurons, for the reference as tensors and for the kernels as matrices."""

    def __init__(self, n_ff: int, n_embd: int, kind: Kind, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        gated, self.relu_on_up, biased, self.activation = kind
        scale = n_embd**-0.5
        self.gate, self.up, self.down_t = (
            (rng.standard_normal((n_ff, n_embd)) * scale).astype(np.float32) for _ in range(3)
        )
        self.gate_bias, self.up_bias = (
            torch.from_numpy(rng.standard_normal(n_ff).astype(np.float32)) if biased else None for _ in range(2)
        )
        self.gated = gated

    def wanted(self, x: Tensor, mask: Tensor) -> Interval:
        gate, up, down_t = map(torch.from_numpy, (self.gate, self.up, self.down_t))
        return sparse_ffn(
            x,
            mask,
            gate if self.gated else None,
            up,
            down_t,
            activation=self.activation,
            relu_on_up=self.relu_on_up,
            gate_bias=self.gate_bias if self.gated else None,
            up_bias=self.up_bias,
        )

    def rows(self) -> Neurons[Matrix, Tensor]:
        gate, up, down_t = (Matrix(stored(data), resident=True) for data in (self.gate, self.up, self.down_t))
        gates = Linear(gate, self.gate_bias) if self.gated else None
        rows = gates, Linear(up, self.up_bias), Linear(down_t, None)
        return Neurons(up.n_rows, *rows, True, self.activation, self.relu_on_up, curve_of(self.activation))

    def fired(self, x: Tensor, mask: Tensor) -> Tensor:
        """bool [T, n_ff]: active neurons; under ReLU, those whose first projection is positive."""
        if not self.activation.has_exact_zeros:
            return mask
        first, bias = (self.gate, self.gate_bias) if self.gated else (self.up, self.up_bias)
        value = x @ torch.from_numpy(first).T
        return mask & ((value if bias is None else value + bias) > 0)


def inputs(n_token: int, n_embd: int, n_ff: int, share: float) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(n_token + n_ff)
    x = torch.from_numpy(rng.standard_normal((n_token, n_embd)).astype(np.float32))
    return x, torch.from_numpy(rng.random((n_token, n_ff)) < share)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("n_ff", "n_embd"), [(1, 1), (7, 33), (65, 31), (130, 5)])
def test_one_token(kind: Kind, share: float, n_ff: int, n_embd: int) -> None:
    weights = Weights(n_ff, n_embd, kind)
    x, mask = inputs(1, n_embd, n_ff, share)
    y, fired = sparse_ffn_token(x, mask[0].nonzero()[:, 0], weights.rows())
    weights.wanted(x, mask).check(y)
    assert fired == int(weights.fired(x, mask).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("n_token", [1, 2, 9])
@pytest.mark.parametrize(("n_ff", "n_embd"), [(1, 1), (65, 31)])
def test_many_tokens(kind: Kind, share: float, n_token: int, n_ff: int, n_embd: int) -> None:
    weights = Weights(n_ff, n_embd, kind)
    x, mask = inputs(n_token, n_embd, n_ff, share)
    y, fired = sparse_ffn_batch(x, mask, weights.rows())
    weights.wanted(x, mask).check(y)
    assert fired == int(weights.fired(x, mask).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_effect_are_not_read(kind: Kind) -> None:
    """One token: inactive neurons' rows; and the other rows of a neuron whose gate is 0."""
    weights = Weights(40, 12, kind)
    x, mask = inputs(1, 12, 40, 0.5)
    clean, _ = sparse_ffn_token(x, mask[0].nonzero()[:, 0], weights.rows())
    fired = weights.fired(x, mask)[0]
    assert 0 < fired.sum() <= mask.sum() < 40
    assert (fired.sum() == mask.sum()) == (not weights.activation.has_exact_zeros)
    weights.gate[~mask[0].numpy()] = np.nan
    weights.down_t[~fired.numpy()] = np.nan
    weights.up[~(fired if weights.gated else mask[0]).numpy()] = np.nan
    y, _ = sparse_ffn_token(x, mask[0].nonzero()[:, 0], weights.rows())
    assert torch.equal(y, clean)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_reads_no_row_that_no_token_needs(kind: Kind) -> None:
    weights = Weights(40, 12, kind)
    x, mask = inputs(3, 12, 40, 0.3)
    needed = mask.any(0).numpy()
    assert not needed.all()
    clean, _ = sparse_ffn_batch(x, mask, weights.rows())
    for data in (weights.gate, weights.up, weights.down_t):
        data[~needed] = np.nan
    y, _ = sparse_ffn_batch(x, mask, weights.rows())
    assert torch.equal(y, clean)
