"""The rank of a layer's predictor: a larger one costs bytes itself, a smaller one lets idle neurons through."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from solver.predictor.layer import PredictorOptions, TrainedPredictor, fit
from solver.predictor.samples import Samples
from solver.predictor.start import Start, linear_start, rows_from_labels

__all__ = [
    "Costs",
    "RankOptions",
    "candidates",
    "choose",
    "most_rank",
    "start_densities",
    "train_at_best_rank",
]

MOST = 1280  # directions that are looked at; released predictors of 13B models have no more
STEP = 32  # a row of fc2 is whole blocks of a quantised type
GAINED = 0.75  # what training leaves of the start's falsely predicted neurons (NOTES, "Predictors")
SETTLED = 1.05  # of the true density: a start that lets no more through is not trained
HELD = 2048  # tokens on which starts are compared
TRIES = 3


@dataclass(frozen=True)
class Costs:
    """Bytes read for a neuron that is let through, and for each hidden neuron of the predictor."""

    neuron: float
    hidden: float

    def of(self, density: float, rank: int, n_ff: int) -> float:
        """Bytes read for a token."""
        return density * n_ff * self.neuron + rank * self.hidden


@dataclass(frozen=True)
class RankOptions:
    """`most_excess`: predicted density over true density that is to be kept where any rank does. rank: no choice."""

    most_excess: float = 1.6
    rank: int | None = None


def most_rank(n_embd: int, n_ff: int) -> int:
    """No rank beyond this is tried: with n_embd directions and the constant one a linear map is exact."""
    return max(1, min(MOST, -(-(n_embd + 1) // STEP) * STEP, n_ff))


def candidates(most: int) -> list[int]:
    """Multiples of STEP up to `most`, ever further apart; `most` alone where it is less than one."""
    found, rank = [], STEP
    while rank < most:
        found.append(rank)
        rank += max(STEP, rank // 4 // STEP * STEP)
    return [*found, most]


def train_at_best_rank(
    samples: Samples,
    rows: torch.Tensor | None,
    costs: Costs,
    options: PredictorOptions,
    choice: RankOptions,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    *,
    compare: bool = False,
) -> TrainedPredictor:
    """Train at the cheapest rank whose predicted density is within `most_excess` of the true one.

    Ranks are compared by where training starts from, and by what training takes off. Where the trained predictor
    misses the limit all the same, larger ranks are tried. `rows`: as for `train_predictor`; with `compare` they are
    weighed against a start from the labels alone.
    """
    train, held = samples.to(options.device).split(options.validation_share)
    most = choice.rank or most_rank(samples.n_embd, samples.n_ff)
    start = _start(train, held, rows, most, options, compare=compare)
    if choice.rank:
        return fit(train, held, start, replace(options, rank=choice.rank), on_step)
    ranks = candidates(most)
    densities, true = start_densities(start, held, ranks, options.recall + options.margin)
    chosen = choose(ranks, densities, true, costs, choice.most_excess, samples.n_ff)
    best: TrainedPredictor | None = None
    for _ in range(TRIES):
        settled = densities[ranks.index(chosen)] <= SETTLED * true
        found = fit(train, held, start, replace(options, rank=chosen, steps=0 if settled else options.steps), on_step)
        best = _better(best, found, choice.most_excess)
        left = [rank for rank in ranks if rank > chosen]
        if found.report.excess <= choice.most_excess or not left:
            break
        gained = (found.report.predicted_density - true) / max(densities[ranks.index(chosen)] - true, 1e-9)
        chosen = choose(left, densities[-len(left) :], true, costs, choice.most_excess, samples.n_ff, gained)
    assert best is not None  # there is at least one try
    return best


def _start(
    train: Samples, held: Samples, rows: torch.Tensor | None, most: int, options: PredictorOptions, *, compare: bool
) -> Start:
    unit = train.unit_inputs()
    maps = [] if rows is None else [rows]
    if rows is None or compare:
        maps.append(rows_from_labels(unit, train))
    starts = [linear_start(unit, one, most, options.seed) for one in maps]
    return min(starts, key=lambda start: start_densities(start, held, [most], options.recall)[0][0])


def start_densities(start: Start, held: Samples, ranks: list[int], recall: float) -> tuple[list[float], float]:
    """The density with which each rank's start has the recall, and the true density."""
    part = held[:HELD]
    x, truth = part.unit_inputs(), part.labels()
    active = int(truth.sum())
    true = active / max(1, truth.numel())
    if not active:
        return [0.0] * len(ranks), 0.0
    missed = max(1, int((1 - recall) * active))
    densities = []
    for rank in ranks:
        fc1, fc2 = start.predictor(rank)
        logits = F.linear(F.relu(F.linear(x, fc1.to(x))), fc2.to(x))
        threshold = logits[truth].kthvalue(missed).values
        densities.append((logits >= threshold).float().mean().item())
    return densities, true


def choose(
    ranks: list[int],
    densities: list[float],
    true: float,
    costs: Costs,
    most_excess: float,
    n_ff: int,
    gained: float = GAINED,
) -> int:
    """The cheapest rank within the limit; where none is, the cheapest of all."""
    expected = [true + gained * max(0.0, density - true) for density in densities]
    price = {rank: costs.of(density, rank, n_ff) for rank, density in zip(ranks, expected, strict=True)}
    within = [rank for rank, density in zip(ranks, expected, strict=True) if density <= most_excess * true]
    return min(within or ranks, key=lambda rank: price[rank])


def _better(old: TrainedPredictor | None, new: TrainedPredictor, most_excess: float) -> TrainedPredictor:
    """The new one if it keeps the limit, or lets fewer neurons through."""
    if old is None or new.report.excess <= most_excess:
        return new
    return min((old, new), key=lambda one: one.report.predicted_density)
