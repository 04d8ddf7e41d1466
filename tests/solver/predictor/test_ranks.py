"""The choice of a rank: the cheapest in bytes read that keeps the limit."""

from dataclasses import replace

import pytest
import torch

from solver.predictor import ranks
from solver.predictor.layer import PredictorOptions, train_predictor
from solver.predictor.ranks import (
    Costs,
    RankOptions,
    ReadingSpeed,
    candidates,
    most_rank,
    start_densities,
    train_at_best_rank,
)
from solver.predictor.samples import Samples
from solver.predictor.start import Residuals, Start, start_from_rows

OPTIONS = PredictorOptions(batch=128, validation_share=0.1)


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


def test_what_a_token_reads() -> None:
    costs = Costs(neuron=3.0, hidden=10.0, spared=2.0)
    assert costs.of(0.5, 4, 100) == 190.0, "all rows of what is let through, and the predictor"
    assert costs.of(0.5, 4, 100, true=0.1) == 110.0, "of those that are 0 the first row only"


@pytest.mark.parametrize("hidden", [0.01, 3.0, 10.0, 1e9])
def test_the_cheapest_rank_is_chosen(hidden: float) -> None:
    samples, rows = layer(80)
    costs = Costs(neuron=300.0, hidden=hidden)
    prices = {
        rank: costs.of_report(train_at_best_rank(samples, rows, costs, OPTIONS, RankOptions(rank)).report, 128)
        for rank in (32, 64, 96, 128)
    }
    found = train_at_best_rank(samples, rows, costs, OPTIONS, RankOptions())
    assert costs.of_report(found.report, 128) <= 1.04 * min(prices.values())
    assert hidden < 1e9 or found.report.rank == 32


def test_of_ranks_that_cost_about_the_same_the_one_that_lets_fewer_through() -> None:
    """Rows here and there are read more slowly than whole matrices."""
    samples, rows = layer(80)
    cheapest, fewer = (
        train_at_best_rank(samples, rows, Costs(300, hidden), OPTIONS, RankOptions()).report for hidden in (20.0, 10.5)
    )
    assert fewer.rank > cheapest.rank
    assert fewer.predicted_density < cheapest.predicted_density


def test_larger_cuts_are_looked_at_only_where_small_ones_do_not_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, rows = layer(80)
    looked_at: list[int] = []

    def seen(residuals: Residuals, rows: torch.Tensor, most: int, seed: int) -> Start:
        looked_at.append(most)
        return start_from_rows(residuals, rows, most, seed)

    monkeypatch.setattr(ranks, "start_from_rows", seen)
    monkeypatch.setattr(ranks, "FEW", 32)
    assert train_at_best_rank(samples, rows, Costs(300, 1.0), OPTIONS, RankOptions()).report.rank > 32
    assert looked_at == [32, 128]


def test_the_rank_follows_the_layer() -> None:
    costs = Costs(neuron=300.0, hidden=1.0)
    found_ranks = []
    for directions in (20, 80):
        samples, rows = layer(directions)
        found = train_at_best_rank(samples, rows, costs, OPTIONS, RankOptions())
        assert found.report.recall >= 0.95
        assert found.report.excess <= 1.6
        found_ranks.append(found.report.rank)
    assert found_ranks[0] == 32
    assert found_ranks[1] > 32


def test_a_given_rank_is_taken() -> None:
    samples, rows = layer(20)
    found = train_at_best_rank(samples, rows, Costs(1, 1), OPTIONS, RankOptions(rank=48))
    assert found.fc1.shape == (48, 96)


def test_starts_are_judged_as_their_predictors_are_measured() -> None:
    samples, rows = layer(20)
    train, held = samples.split(0.1)
    start = start_from_rows(Residuals(train), rows, 64, 0)
    (_, first, true), (_, second, _) = start_densities(start, held, [8, 21], 0.95)
    assert first > second
    assert second == pytest.approx(true * 0.95, rel=0.15)
    options = replace(OPTIONS, rank=8, recall=0.94)
    assert train_predictor(samples.inputs, samples.labels(), options, rows).report.predicted_density == pytest.approx(
        first, rel=0.05
    )


def test_of_two_starts_the_better_is_taken() -> None:
    """Rows that say nothing of the neurons lose against the labels."""
    samples, rows = layer(20)
    nonsense = rows.roll(1, dims=0)
    costs, one = Costs(1, 1), RankOptions(rank=32)
    blind = train_at_best_rank(samples, nonsense, costs, replace(OPTIONS, steps=0), one)
    weighed = train_at_best_rank(samples, nonsense, costs, replace(OPTIONS, steps=0), one, compare=True)
    assert weighed.report.predicted_density < 0.7 * blind.report.predicted_density


def test_where_a_machines_speed_is_known_costs_are_seconds() -> None:
    """Rows here and there may be read so slowly, or asking take so long, that fewer bytes are no gain."""
    costs = Costs(neuron=300.0, hidden=10.0, spared=200.0, dense=1000 * 300.0)
    timed = costs.at(ReadingSpeed(dense=1e6, scattered=5e5, fixed=0.01))
    assert costs.at(None) is costs
    assert timed.dense == pytest.approx(0.3)
    assert timed.of(0.2, 32, 1000, 0.1) == pytest.approx(1000 * (0.2 * 300 - 0.1 * 200) / 5e5 + 320 / 1e6 + 0.01)
    assert costs.of(0.6, 32, 1000) < costs.dense
    assert timed.of(0.6, 32, 1000) > timed.dense
