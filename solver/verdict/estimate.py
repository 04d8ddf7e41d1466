"""Bytes that a token reads of each FFN: now, and with the predictors that a short look makes one expect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model import ModelConfig
from powerinfer_cli.model.blocks import Layer
from solver.predictor import PredictorOptions, PredictorReport, RankOptions, ReadingSpeed
from solver.predictor.layer import TrainedPredictor
from solver.predictor.ranks import train_at_best_rank
from solver.predictor.samples import Samples
from solver.predictor.teacher import neuron_rows
from solver.predictor.training import layer_costs

__all__ = ["LayerBytes", "LayerEstimate", "Trial", "estimate_layers", "layer_bytes", "try_predictor"]


@dataclass(frozen=True)
class LayerBytes:
    """Of an FFN in its file. dense: all of it. first: the row of a neuron that is read once it is let through (gate, or
    up without one). rest: its other rows, down as it is stored transposed. hidden: of one hidden neuron of a predictor.
    """

    dense: float
    first: float
    rest: float
    hidden: float
    n_ff: int

    def sparse(self, predicted: float, fired: float, rank: int) -> float:
        """A token's, with these shares of neurons let through, and not 0."""
        return self.n_ff * (predicted * self.first + fired * self.rest) + rank * self.hidden

    def gains(self, predicted: float, fired: float, rank: int, speed: ReadingSpeed | None) -> bool:
        """Whether that is faster than the dense layer; without a speed: reads less."""
        if speed is None:
            return self.sparse(predicted, fired, rank) < self.dense
        rows = self.sparse(predicted, fired, 0) / speed.scattered
        return rows + rank * self.hidden / speed.dense + speed.fixed < self.dense / speed.dense

    def turned(self, fired: float) -> float:
        """Without predictors, where zeros are exact."""
        return self.n_ff * (self.first + fired * self.rest)


@dataclass(frozen=True)
class Trial:
    """A predictor in closed form, from few tokens: its rank, and what it lets through for what is active."""

    rank: int
    predicted: float
    true: float

    @classmethod
    def of(cls, report: PredictorReport) -> "Trial":
        return cls(report.rank, report.predicted_density, report.true_density)

    @property
    def excess(self) -> float:
        """Of the idle neurons, the share that is let through all the same."""
        return max(0.0, self.predicted - self.true) / max(1e-9, 1 - self.true)


@dataclass(frozen=True)
class LayerEstimate:
    """density: active. predicted: let through. sparse: whether that is faster than the dense layer, or reads less where
    no machine was measured.

    bytes_now, bytes_sparse (of what is faster), bytes_best (a predictor that is never wrong): of a token.
    """

    density: float
    predicted: float
    rank: int
    sparse: bool
    bytes_now: float
    bytes_sparse: float
    bytes_best: float
    bytes_turned: float


def layer_bytes(layer: Layer[Tensor, Tensor], config: ModelConfig) -> LayerBytes:
    """Of a layer of a file."""
    neurons, costs = layer.ffn.neurons, layer_costs(layer, config)
    first = neurons.up if neurons.gate is None else neurons.gate
    row = first.weight.nbytes / neurons.n_ff
    return LayerBytes(costs.dense, row, costs.neuron - row, costs.hidden, neurons.n_ff)


def try_predictor(
    layer: Layer[Tensor, Tensor], config: ModelConfig, samples: Samples, recall: float, speed: ReadingSpeed | None
) -> TrainedPredictor:
    """In closed form: of what gradient steps would still gain nothing is promised."""
    exact = layer.ffn.neurons.activation.has_exact_zeros
    rows = neuron_rows(layer, samples.unit_inputs()) if exact else None
    options = PredictorOptions(recall=recall, validation_share=0.25)
    costs = layer_costs(layer, config).at(speed)
    return train_at_best_rank(samples, rows, costs, options, RankOptions())


def estimate_layers(
    sizes: Sequence[LayerBytes],
    densities: Sequence[float],
    trials: Mapping[int, Trial],
    speed: ReadingSpeed | None = None,
    *,
    exact: bool,
) -> tuple[LayerEstimate, ...]:
    """Layers between those tried are expected to err as their neighbours do. exact: zeros are exact, so that neurons
    let through in vain cost their first row only.
    """
    tried = sorted(trials)
    numbers = np.arange(len(sizes))
    excess = np.interp(numbers, tried, [trials[i].excess for i in tried])
    ranks = np.interp(numbers, tried, [trials[i].rank for i in tried])
    least = min(trial.rank for trial in trials.values())
    found = []
    for i, (size, density) in enumerate(zip(sizes, densities, strict=True)):
        predicted, rank = min(1.0, density + float(excess[i]) * (1 - density)), round(float(ranks[i]))
        fired = density if exact else predicted
        pays = size.gains(predicted, fired, rank, speed)
        sparse = size.sparse(predicted, fired, rank) if pays else size.dense
        best = min(size.dense, size.sparse(density, density, min(rank, least)))
        turned = min(size.dense, size.turned(density)) if exact else size.dense
        found.append(LayerEstimate(density, predicted, rank, pays, size.dense, sparse, best, turned))
    return tuple(found)
