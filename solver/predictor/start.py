"""Predictors in closed form: a linear map cut to a low rank, and a scale and an offset of each neuron.

Under ReLU and an RMS norm a neuron is active where `row . x > 0`, its gate row times the norm's weight: a norm divides
by a positive number, which changes no sign. Elsewhere labels are regressed on residuals. Of the map's directions those
count most in which residuals really spread, so the map is cut in coordinates where residuals are white.

What is cut off is not the same for all neurons. Logits are made comparable, so that one threshold serves them all: of
a known map they are divided by the size of what the cut leaves open; those of a regression are log-odds.

A hidden neuron of the predictor passes through ReLU and there is no bias; but residual streams have a direction along
which every token has about the same size. A multiple of it added to each hidden neuron keeps almost all of them above
0, where ReLU is linear, and one more hidden neuron holds what is to be taken off again, and the offsets. So linear maps
of rank r need r + 1 hidden neurons, not the 2 r of opposite pairs.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TypeAlias

import torch
from torch import Tensor

from solver.predictor.samples import Samples

__all__ = ["CHUNK", "EXTRA", "PASSES", "Residuals", "Start", "start_from_labels", "start_from_rows"]

SHIFT = 3.0  # of hidden neurons, in standard deviations
RIDGE = 1e-4  # of the mean variance: directions in which residuals hardly spread
LABEL_RIDGE = 1e-2  # the same, where few tokens must not be learned by heart
GAIN = 1.6  # from standard deviations to log-odds
FLOOR = 0.03  # of a logit's size: rounding, in files and sums, remains where nothing is cut off
LEAST_WEIGHT = 1e-3  # of neurons that hardly ever come near 0
LEAST_COMMON = 0.5  # of the mean of residuals' squares
RAREST = 1e-4  # share of tokens
EXTRA = 16  # directions of the random sketch beyond those wanted
PASSES = 3  # of the sketch over the map
CHUNK = 2048  # tokens

Calibration: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Residuals:
    """How a layer's residuals, at unit RMS, spread. A few thousand at a time are numbers of 32 bits."""

    samples: Samples

    def parts(self) -> Iterator[tuple[Samples, Tensor]]:
        """A part of the samples and its residuals [CHUNK, n_embd]."""
        for begin in range(0, len(self.samples), CHUNK):
            part = self.samples[begin : begin + CHUNK]
            yield part, part.unit_inputs()

    @cached_property
    def mean(self) -> Tensor:
        total = reduce(torch.add, (x.sum(dim=0) for _, x in self.parts()))
        return total / len(self.samples)

    @cached_property
    def constant(self) -> Tensor:
        """[n_embd]: its product with each residual is about 1, and 1 on average where residuals have much in common."""
        second = _mean_square((x for _, x in self.parts()), len(self.samples))
        found: Tensor = torch.linalg.solve(_ridged(second, RIDGE), self.mean)
        return found / (found @ self.mean).clamp(min=LEAST_COMMON)

    def centred(self, x: Tensor) -> Tensor:
        """[N, n_embd]: without what they share."""
        return x - torch.outer(x @ self.constant, self.mean)

    @cached_property
    def covariance(self) -> Tensor:
        """[n_embd, n_embd]: of the centred ones."""
        return _mean_square((self.centred(x) for _, x in self.parts()), len(self.samples))

    @cached_property
    def lower(self) -> Tensor:
        """The covariance's Cholesky factor."""
        factor: Tensor = torch.linalg.cholesky(_ridged(self.covariance, RIDGE))
        return factor


def _mean_square(parts: Iterable[Tensor], count: int) -> Tensor:
    total = reduce(torch.add, (x.T @ x for x in parts))
    return total / count


@dataclass(frozen=True)
class Start:
    """directions [most, n_embd], the most important first: of centred residuals, with variance 1. weights [n_ff, most].

    calibration: of the sums [n_ff] of squares of the weights that are used, the scales and offsets [n_ff] with which
    products become logits.
    """

    directions: Tensor
    weights: Tensor
    residuals_mean: Tensor
    constant: Tensor
    calibration: Calibration

    @property
    def most(self) -> int:
        return len(self.directions)

    def calibrated(self, used: int) -> tuple[Tensor, Tensor]:
        """Scales and offsets [n_ff] of the first `used` directions."""
        return self.calibration(self.weights[:, :used].square().sum(dim=1))

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, most] of residuals at unit RMS, and [N]: about 1, by which offsets are multiplied."""
        one = x @ self.constant
        return (x - torch.outer(one, self.residuals_mean)) @ self.directions.T, one

    def predictor(self, rank: int) -> tuple[Tensor, Tensor]:
        """fc1 [rank, n_embd] and fc2 [n_ff, rank]; more hidden neurons than there are directions stay 0."""
        fc1 = self.directions.new_zeros(rank, self.directions.shape[1])
        fc2 = self.weights.new_zeros(self.weights.shape[0], rank)
        used = min(rank - 1, self.most)
        scales, offsets = self.calibrated(used)
        directions, weights = self.directions[:used], scales[:, None] * self.weights[:, :used]
        shifts = SHIFT - directions @ self.residuals_mean
        fc1[1 : used + 1] = directions + torch.outer(shifts, self.constant)
        fc2[:, 1 : used + 1] = weights
        held = offsets - SHIFT * weights.sum(dim=1)
        # Not larger than the other weights, with which it shares a quantised block.
        size = (held.square().mean() / weights.square().mean().clamp(min=1e-12)).sqrt().clamp(min=1) if used else 1.0
        fc1[0], fc2[:, 0] = size * self.constant, held / size
        return fc1, fc2


def start_from_rows(residuals: Residuals, rows: Tensor, most: int, seed: int) -> Start:
    """Of a known map, rows [n_ff, n_embd]: a neuron is active where its row's product with a residual is above 0.

    Neurons count by how often they come near 0: of others the sign is soon known.
    """
    rows = rows.to(residuals.mean)
    white, means = rows @ residuals.lower, rows @ residuals.mean
    spread = white.norm(dim=1).clamp(min=1e-12)
    near = torch.exp(-(means / spread).square() / 2).clamp(min=LEAST_WEIGHT).sqrt() / spread
    directions, weights = _cut(residuals, near[:, None] * white, most, seed)
    weights = weights / near[:, None]

    def calibration(used: Tensor) -> tuple[Tensor, Tensor]:
        left_open = (spread.square() - used).clamp(min=0) + (FLOOR * spread).square()
        scales = GAIN / left_open.sqrt()
        return scales, scales * means

    return Start(directions, weights, residuals.mean, residuals.constant, calibration)


def start_from_labels(residuals: Residuals, most: int, seed: int) -> Start:
    """Of labels, regressed on residuals: the cut is that of least squares, logits are those of a discriminant."""
    count, n_ff, like = len(residuals.samples), residuals.samples.n_ff, residuals.mean
    together, shares, offset = like.new_zeros(len(like), n_ff), like.new_zeros(n_ff), torch.zeros_like(like)
    for part, x in residuals.parts():
        labels, centred = part.labels().to(x.dtype), residuals.centred(x)
        together += centred.T @ labels
        shares += labels.sum(dim=0)
        offset += centred.sum(dim=0)
    shares = (shares / count).clamp(RAREST, 1 - RAREST)
    spread = (shares * (1 - shares)).sqrt()
    together = together / count - torch.outer(offset / count, shares)
    rows = torch.linalg.solve(_ridged(residuals.covariance, LABEL_RIDGE), together).T / spread[:, None]
    directions, weights = _cut(residuals, rows @ residuals.lower, most, seed)

    def calibration(used: Tensor) -> tuple[Tensor, Tensor]:
        explained = used.clamp(max=0.99)  # share of the labels' variance
        scales = 1 / (spread * (1 - explained))
        middle = explained * (1 - 2 * shares) / (2 * spread)
        return scales, torch.logit(shares) - scales * middle

    return Start(directions, weights, residuals.mean, residuals.constant, calibration)


def _ridged(matrix: Tensor, share: float) -> Tensor:
    return matrix + share * (matrix.diagonal().mean() + 1e-12) * torch.eye(len(matrix)).to(matrix)


def _cut(residuals: Residuals, white: Tensor, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """directions [most, n_embd] and weights [n_ff, most] of a map of residuals that are white."""
    left, sizes, right = _largest(white, most, seed)
    directions = torch.linalg.solve_triangular(residuals.lower, right, upper=False, left=False)
    return directions.contiguous(), left * sizes


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
