"""The rank of a layer's predictor: a larger one costs time itself, a smaller one lets idle neurons through."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from solver.predictor.layer import LEAST_CONSTANT, PredictorOptions, PredictorReport, TrainedPredictor, closed_form
from solver.predictor.samples import Samples
from solver.predictor.start import EXTRA, PASSES, Residuals, Start, start_from_labels, start_from_rows

__all__ = [
    "Costs",
    "RankOptions",
    "ReadingSpeed",
    "TrainingWork",
    "candidates",
    "most_rank",
    "start_densities",
    "train_at_best_rank",
]

MOST = 1280  # directions that are looked at; released predictors of 13B models have no more
STEP = 32  # a row of fc2 is whole blocks of a quantised type
HELD = 2048  # tokens on which starts are compared
PATIENCE = 3  # ranks, each dearer than the best before
HARDLY = 0.03  # dearer
SCATTERED = 0.8  # of a row's time more, where rows are read here and there, and no speed was measured (NOTES, "Decode")
FEW = 320  # the largest rank that is looked at first: larger cuts take long


@dataclass(frozen=True)
class ReadingSpeed:
    """Of a machine. dense, scattered: bytes a second, of matrices from front to back, and of rows here and there.
    fixed: seconds that a sparse FFN takes besides.
    """

    dense: float
    scattered: float
    fixed: float

    def with_rows(self, slowness: float) -> "ReadingSpeed":
        """With a sparse FFN that takes so many times as long, but for its predictor's bytes."""
        return ReadingSpeed(self.dense, self.scattered / slowness, self.fixed * slowness)


@dataclass(frozen=True)
class Costs:
    """Bytes read for a neuron that is let through, and for each hidden neuron of the predictor.

    spared: of a neuron's bytes, those that are not read where its gate turns out to be 0. dense: of the whole layer
    without a predictor. Where a machine's speed is known all of them are seconds, and `fixed` are those besides.
    """

    neuron: float
    hidden: float
    spared: float = 0.0
    dense: float = math.inf
    fixed: float = 0.0
    timed: bool = False

    def at(self, speed: ReadingSpeed | None) -> "Costs":
        """In seconds, if the speed is known."""
        if speed is None:
            return self
        return Costs(
            neuron=self.neuron / speed.scattered,
            hidden=self.hidden / speed.dense,
            spared=self.spared / speed.scattered,
            dense=self.dense / speed.dense,
            fixed=speed.fixed,
            timed=True,
        )

    def of(self, density: float, rank: int, n_ff: int, true: float = 1.0) -> float:
        """Of a token, with these shares of neurons let through, and not 0."""
        idle = max(0.0, density - true)
        return n_ff * (density * self.neuron - idle * self.spared) + rank * self.hidden + self.fixed

    def of_report(self, report: PredictorReport, n_ff: int) -> float:
        """Of a token with a predictor."""
        return self.of(report.predicted_density, report.rank, n_ff, report.true_density)


@dataclass(frozen=True)
class RankOptions:
    """rank: None for the one with which a token costs least."""

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


@dataclass(frozen=True)
class TrainingWork:
    """Multiplications that a layer's predictor in closed form takes, nearly all of them. once: for the map in
    coordinates where residuals are white, its cut, and factors. token: of each, in covariances and in a regression.
    """

    once: float
    token: float

    @classmethod
    def of(cls, n_embd: int, n_ff: int, *, exact: bool) -> "TrainingWork":
        """exact: the map is known."""
        maps = n_embd * n_embd * n_ff * (1 if exact else 2)
        cut = 2 * PASSES * (min(FEW, n_embd) + EXTRA) * n_ff * n_embd
        return cls(maps + cut + n_embd**3, 2 * n_embd * n_embd + (0 if exact else n_embd * n_ff))

    @property
    def fixed(self) -> float:
        """How many tokens would take as long as what does not depend on their number."""
        return self.once / self.token

    def of_tokens(self, tokens: int) -> float:
        return self.once + tokens * self.token


def train_at_best_rank(
    samples: Samples,
    rows: torch.Tensor | None,
    costs: Costs,
    options: PredictorOptions,
    choice: RankOptions,
    *,
    compare: bool = False,
) -> TrainedPredictor:
    """The predictor in closed form with which a token costs least, be that more than the dense layer does.

    `rows`: as for `train_predictor`; with `compare` they are weighed against the labels alone. No gradient steps.
    """
    train, held = samples.to(options.device).split(options.validation_share)
    recall = options.recall + options.margin
    if choice.rank:
        ways = [
            (_cheapest(start, held, [choice.rank], costs, recall), start)
            for start in _starts(train, rows, choice.rank, options.seed, compare=compare)
        ]
    else:
        most = most_rank(samples.n_embd, samples.n_ff)
        for looked_at in sorted({min(FEW, most), most}):
            ways = [
                (_cheapest(start, held, candidates(looked_at), costs, recall), start)
                for start in _starts(train, rows, looked_at, options.seed, compare=compare)
            ]
            if all(cheapest.settled for cheapest, _ in ways):
                break
    cheapest, start = min(ways, key=lambda way: way[0].price)
    return closed_form(train, held, start, replace(options, rank=cheapest.rank))


def _starts(train: Samples, rows: torch.Tensor | None, most: int, seed: int, *, compare: bool) -> Iterator[Start]:
    residuals = Residuals(train)
    if rows is not None:
        yield start_from_rows(residuals, rows, most, seed)
    if rows is None or compare:
        yield start_from_labels(residuals, most, seed)


@dataclass(frozen=True)
class _Cheapest:
    """price: of a token. settled: more rank is dearer, as far as was looked."""

    price: float
    rank: int
    settled: bool


def _cheapest(start: Start, held: Samples, ranks: Sequence[int], costs: Costs, recall: float) -> _Cheapest:
    """The cheapest rank, or one that is hardly dearer and lets fewer neurons through."""
    prices: dict[int, float] = {}
    for rank, density, true in start_densities(start, held, ranks, recall):
        prices[rank] = costs.of(density, rank, held.n_ff, true)
        since = len(prices) - 1 - list(prices.values()).index(min(prices.values()))
        if since >= PATIENCE and prices[rank] > (1 + HARDLY) * min(prices.values()):
            return _quickest(prices, costs, settled=True)
    return _quickest(prices, costs, settled=False)


def _quickest(prices: Mapping[int, float], costs: Costs, *, settled: bool) -> _Cheapest:
    near = [rank for rank, price in prices.items() if price <= (1 + HARDLY) * min(prices.values())]
    scattered = 0.0 if costs.timed else SCATTERED
    rank = min(near, key=lambda rank: prices[rank] + scattered * (prices[rank] - rank * costs.hidden))
    return _Cheapest(prices[rank], rank, settled)


def start_densities(
    start: Start, held: Samples, ranks: Sequence[int], recall: float
) -> Iterator[tuple[int, float, float]]:
    """Each rank, the density with which its start has the recall, and the true density."""
    part = held[:HELD]
    (features, one), truth = start.features(part.unit_inputs()), part.labels()
    one, active = one.clamp(min=LEAST_CONSTANT), int(truth.sum())
    true = active / max(1, truth.numel())
    missed = max(1, int((1 - recall) * active))
    products, before = features.new_zeros(truth.shape), 0
    for rank in ranks:
        used = min(rank - 1, start.most)
        products.addmm_(features[:, before:used], start.weights[:, before:used].T)
        before = used
        if not active:
            yield rank, 0.0, 0.0
            continue
        scales, offsets = start.calibrated(used)
        logits = (products / one[:, None]).mul_(scales).add_(offsets)  # as `calibrate` sees them
        threshold = logits[truth].kthvalue(missed).values
        yield rank, (logits >= threshold).float().mean().item(), true
