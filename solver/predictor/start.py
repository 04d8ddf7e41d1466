"""Where training starts: the linear map behind a layer's neurons, cut to a low rank.

Under ReLU and an RMS norm a neuron is active where `row . x > 0`, its gate row times the norm's weight: a norm divides
by a positive number, which changes no sign. So the best predictor is nearly linear. Of the map's directions those
count most in which the residuals really spread, so the map is cut in coordinates where residuals are white.

A hidden neuron of the predictor passes through ReLU and there is no bias; but residual streams have a direction along
which every token has about the same size. A multiple of it added to each hidden neuron keeps almost all of them above
0, where ReLU is linear, and one more hidden neuron holds what is to be taken off again. So linear maps of rank r need
r + 1 hidden neurons, not the 2 r of opposite pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from solver.predictor.samples import Samples

__all__ = ["Start", "linear_start", "rows_from_labels"]

SHIFT = 3.0  # of hidden neurons, in standard deviations
GAIN = 4.0  # of logits: where the loss is neither flat nor all in a few tokens
RIDGE = 1e-4  # of the mean variance: directions in which residuals hardly spread
EXTRA = 16  # directions of the random sketch beyond those wanted
PASSES = 3  # of the sketch over the map
CHUNK = 4096  # tokens whose labels are numbers at a time


@dataclass(frozen=True)
class Start:
    """directions [most, n_embd] and weights [n_ff, most], the most important first; constant [n_embd]."""

    directions: Tensor
    weights: Tensor
    constant: Tensor

    def predictor(self, rank: int) -> tuple[Tensor, Tensor]:
        """fc1 [rank, n_embd] and fc2 [n_ff, rank]; more hidden neurons than there are directions stay 0."""
        fc1 = torch.zeros(rank, self.directions.shape[1])
        fc2 = torch.zeros(self.weights.shape[0], rank)
        used = min(rank - 1, len(self.directions))
        weights = GAIN * self.weights[:, :used]
        fc1[0], fc2[:, 0] = self.constant, -SHIFT * weights.sum(dim=1)
        fc1[1 : used + 1] = self.directions[:used] + SHIFT * self.constant
        fc2[:, 1 : used + 1] = weights
        return fc1, fc2


def linear_start(inputs: Tensor, rows: Tensor, most: int, seed: int) -> Start:
    """Cut a map to `most` directions. inputs [N, n_embd] at unit RMS; rows [n_ff, n_embd]: logits are inputs @ rows.T.

    Each row is scaled to logits of size 1, so that rarely active neurons count as much as others.
    """
    second = inputs.T @ inputs / len(inputs)
    second.diagonal().add_(RIDGE * second.diagonal().mean())
    lower = torch.linalg.cholesky(second)
    white = rows.to(inputs) @ lower  # the map as residuals of unit covariance see it
    white = white / white.norm(dim=1, keepdim=True).clamp(min=1e-12)
    left, sizes, right = _largest(white, most, seed)
    directions = torch.linalg.solve_triangular(lower, right, upper=False, left=False)
    constant = torch.cholesky_solve(inputs.mean(dim=0)[:, None], lower)[:, 0]
    return Start(directions.contiguous(), left * sizes, constant)


def _largest(matrix: Tensor, most: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `most` largest singular values: left [rows, most], values [most], right [most, columns]."""
    most = min(most, *matrix.shape)
    wide = min(most + EXTRA, *matrix.shape)
    sketch = torch.randn(matrix.shape[1], wide, generator=torch.Generator().manual_seed(seed)).to(matrix)
    for _ in range(PASSES):
        basis = torch.linalg.qr(matrix @ sketch).Q
        sketch = matrix.T @ basis
    left, values, right = torch.linalg.svd(sketch.T, full_matrices=False)
    return basis @ left[:, :most], values[:most], right[:most]


def rows_from_labels(unit: Tensor, samples: Samples) -> Tensor:
    """The map to start from where the layer's weights say nothing: labels regressed on inputs, [n_ff, n_embd].

    unit: the samples' inputs at RMS 1. For residuals that are spread evenly about their centre the result has the
    direction of the true map.
    """
    second = unit.T @ unit / len(unit)
    second.diagonal().add_(1e-2 * second.diagonal().mean())
    together = torch.zeros(unit.shape[1], samples.n_ff, device=unit.device)
    for begin in range(0, len(unit), CHUNK):  # labels as numbers are many
        part = slice(begin, begin + CHUNK)
        together += unit[part].T @ (samples[part].labels().float() - 0.5)
    solved: Tensor = torch.linalg.solve(second, together / len(unit))
    return solved.T.contiguous()
