"""The choice of a rank: the cheapest in bytes read that keeps the limit."""

from dataclasses import replace

import pytest
import torch

from solver.predictor.layer import PredictorOptions, train_predictor
from solver.predictor.ranks import (
    Costs,
    RankOptions,
    candidates,
    choose,
    most_rank,
    start_densities,
    train_at_best_rank,
)
from solver.predictor.samples import Samples
from solver.predictor.start import linear_start

OPTIONS = PredictorOptions(steps=60, batch=128, validation_share=0.1)


def layer(directions: int, n_embd: int = 96, n_ff: int = 128) -> tuple[Samples, torch.Tensor]:
    """A layer whose map has so many directions that count, and a shared direction of residuals; 10 % active."""
    generator = torch.Generator().manual_seed(directions)
    shared = torch.zeros(n_embd)
    shared[0] = 4.0
    x = torch.randn(4000, n_embd, generator=generator) + shared
    factors = torch.randn(n_ff, directions, generator=generator) @ torch.randn(directions, n_embd, generator=generator)
    factors[:, 0] = -0.32 * factors[:, 1:].norm(dim=1)
    return Samples.of(x, x @ factors.T > 0), factors


def test_ranks_are_whole_blocks_ever_further_apart() -> None:
    assert candidates(20) == [20]
    assert candidates(96) == [32, 64, 96]
    found = candidates(1280)
    assert found[:5] == [32, 64, 96, 128, 160]
    assert found[-1] == 1280
    assert all(rank % 32 == 0 for rank in found)
    assert len(found) < 20


def test_no_rank_is_tried_that_cannot_help() -> None:
    assert most_rank(256, 1024) == 288, "all directions and the constant one, in whole blocks"
    assert most_rank(8192, 28672) == 1280
    assert most_rank(64, 48) == 48


@pytest.mark.parametrize(
    ("costs", "chosen"),
    [
        (Costs(neuron=1, hidden=1e9), 64),  # hidden neurons are dear: the smallest within the limit
        (Costs(neuron=1e9, hidden=1), 128),  # neurons are dear: the largest
        (Costs(neuron=100, hidden=25), 96),  # 100 * 0.03 * 100 saved for 32 * 25 from 96 to 128, less from 64 to 96
    ],
)
def test_the_cheapest_within_the_limit(costs: Costs, chosen: int) -> None:
    ranks, densities = [32, 64, 96, 128], [0.40, 0.16, 0.11, 0.105]
    assert choose(ranks, densities, 0.1, costs, 1.65, 1000, gained=1.0) == chosen


def test_where_no_rank_keeps_the_limit_the_cheapest_of_all() -> None:
    assert choose([32, 64], [0.9, 0.8], 0.1, Costs(1, 1e6), 1.6, 100) == 32
    assert choose([32, 64], [0.9, 0.4], 0.1, Costs(1e6, 1), 1.6, 100) == 64


def test_what_training_gains_counts() -> None:
    ranks, densities = [32, 64], [0.18, 0.11]
    dear = Costs(neuron=1, hidden=1e9)
    assert choose(ranks, densities, 0.1, dear, 1.6, 100, gained=1.0) == 64
    assert choose(ranks, densities, 0.1, dear, 1.6, 100, gained=0.7) == 32


def test_the_rank_follows_the_layer() -> None:
    costs = Costs(neuron=300.0, hidden=1.0)
    ranks = []
    for directions in (20, 80):
        samples, rows = layer(directions)
        found = train_at_best_rank(samples, rows, costs, OPTIONS, RankOptions())
        assert found.report.recall >= 0.95
        assert found.report.excess <= 1.6
        ranks.append(found.report.rank)
    assert ranks[0] == 32
    assert ranks[1] > 32


def test_a_given_rank_is_taken() -> None:
    samples, rows = layer(20)
    found = train_at_best_rank(samples, rows, Costs(1, 1), OPTIONS, RankOptions(rank=48))
    assert found.fc1.shape == (48, 96)


def test_a_larger_rank_is_tried_where_training_misses_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts are said to gain more than they do."""
    samples, rows = layer(80)
    monkeypatch.setattr("solver.predictor.ranks.GAINED", 0.0)
    found = train_at_best_rank(samples, rows, Costs(1, 1e9), replace(OPTIONS, steps=5), RankOptions())
    assert found.report.excess <= 1.6
    assert found.report.rank > 32


def test_starts_are_judged_at_the_recall() -> None:
    samples, rows = layer(20)
    train, held = samples.split(0.1)
    start = linear_start(train.unit_inputs(), rows, 64, 0)
    densities, true = start_densities(start, held, [8, 21, 64], 0.95)
    assert densities[0] > densities[1]
    assert densities[1] == pytest.approx(true * 0.95, rel=0.15)
    options = replace(OPTIONS, rank=21, recall=0.94, steps=0)
    assert train_predictor(samples.inputs, samples.labels(), options, rows).report.predicted_density == pytest.approx(
        densities[1], rel=0.15
    )


def test_of_two_starts_the_better_is_taken() -> None:
    """Rows that say nothing of the neurons lose against the labels."""
    samples, rows = layer(20)
    nonsense = rows.roll(1, dims=0)
    costs, one = Costs(1, 1), RankOptions(rank=32)
    blind = train_at_best_rank(samples, nonsense, costs, replace(OPTIONS, steps=0), one)
    weighed = train_at_best_rank(samples, nonsense, costs, replace(OPTIONS, steps=0), one, compare=True)
    assert weighed.report.predicted_density < 0.7 * blind.report.predicted_density
