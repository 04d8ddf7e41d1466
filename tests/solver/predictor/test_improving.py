"""Gradient steps: in layers where they pay, the most valuable first, within a budget of time."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from threading import Event

import pytest
import torch

from solver.predictor import improving
from solver.predictor.improving import Candidate, Improvement, improve_layer, most_valuable, offer
from solver.predictor.layer import (
    PredictorOptions,
    PredictorReport,
    TrainedPredictor,
    calibrate,
    measure,
    train_predictor,
)
from solver.predictor.ranks import Costs
from solver.predictor.samples import Samples

COSTS = Costs(neuron=300, hidden=1)
OPTIONS = PredictorOptions(rank=8, steps=120, batch=64, validation_share=0.1)


def report(predicted: float, rank: int = 8) -> PredictorReport:
    return PredictorReport(0.95, 1.0, predicted, 0.1, rank)


def test_the_most_valuable_come_first_and_those_without_hope_not_at_all() -> None:
    reports = [report(0.2), report(0.101), report(0.4), PredictorReport.of_dense(0.1)]
    found = most_valuable(reports, [100] * 4, [COSTS] * 4)
    assert [one.number for one in found] == [2, 0]
    assert found[0].hoped == pytest.approx(improving.GAINED * 0.3 * 100 * 300)


def damaged() -> tuple[Samples, TrainedPredictor]:
    """A layer that a rank of 8 is enough for, and a predictor of it that has lost its way."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4000, 24, generator=generator)
    x[:, 0] = 4
    rows = torch.zeros(64, 24)
    rows[:, 1:7] = torch.randn(64, 6, generator=generator)
    rows[:, 0] = -rows.norm(dim=1) / 4
    samples = Samples.of(x, x @ rows.T > 0)
    closed = train_predictor(samples.inputs, samples.labels(), replace(OPTIONS, steps=0), rows)
    fc1 = closed.fc1 + 0.5 * torch.randn(closed.fc1.shape, generator=generator)
    train, held = samples.split(OPTIONS.validation_share)
    fc2 = calibrate(fc1, closed.fc2, train, held, OPTIONS.recall + OPTIONS.margin)
    return samples, TrainedPredictor(fc1, fc2, measure(fc1, fc2, held.unit_inputs(), held.labels()))


@pytest.fixture(scope="module")
def layer() -> tuple[Samples, TrainedPredictor]:
    return damaged()


def improved(layer: tuple[Samples, TrainedPredictor], deadline: float = math.inf) -> Improvement:
    return improve_layer(Candidate(0, 1000.0), *layer, COSTS, OPTIONS, deadline, Event())


def test_steps_that_pay_are_kept_and_repeat(layer: tuple[Samples, TrainedPredictor]) -> None:
    before = layer[1].report
    first, second = improved(layer), improved(layer)
    assert first.predictor is not None
    assert second.predictor is not None
    after = first.predictor.report
    assert after.recall >= before.recall - 0.01
    assert first.saved == COSTS.of_report(before, 64) - COSTS.of_report(after, 64)
    assert first.saved >= improving.LEAST_GAIN * COSTS.of_report(before, 64)
    assert torch.equal(first.predictor.fc2, second.predictor.fc2)


def no_better(improve: Callable[..., TrainedPredictor], calls: list[int]) -> Callable[..., TrainedPredictor]:
    def stays(
        train: Samples, held: Samples, closed: TrainedPredictor, options: PredictorOptions, **_: object
    ) -> TrainedPredictor:
        calls.append(options.steps)
        return closed

    return stays


def test_a_trial_that_promises_nothing_ends_it(
    layer: tuple[Samples, TrainedPredictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(improving, "improve", no_better(improving.improve, calls))
    found = improved(layer)
    assert found.predictor is None
    assert found.left == 0
    assert calls == [improving.TRIAL]


def test_without_time_nothing_is_begun_and_its_worth_is_told(layer: tuple[Samples, TrainedPredictor]) -> None:
    found = improved(layer, deadline=time.monotonic() - 1)
    assert (found.predictor, found.left) == (None, 1000.0)


def test_who_wants_it_to_end_is_heard(layer: tuple[Samples, TrainedPredictor]) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(InterruptedError):
        improve_layer(Candidate(0, 1.0), *layer, COSTS, OPTIONS, math.inf, stop)


def test_what_ten_minutes_more_would_buy() -> None:
    done = [Improvement(None, seconds=200.0), Improvement(None, seconds=400.0)]
    left = [Improvement(None, left=saved) for saved in (5.0, 3.0, 1.0)]
    found = offer([*done, *left], workers=1)
    assert (found.ten_minutes, found.all, found.seconds) == (8.0, 9.0, 900.0)
    assert offer([*done, *left], workers=2).ten_minutes == 9.0
    assert offer(done, workers=1) == offer([], workers=1)
    assert offer([], workers=1).ten_minutes == 0
