"""Gradient steps for predictors in closed form: only in layers where they pay, within a budget of time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event

from solver.predictor.layer import PredictorOptions, PredictorReport, TrainedPredictor, improve
from solver.predictor.ranks import Costs
from solver.predictor.samples import Samples

__all__ = ["Candidate", "Improvement", "Offer", "improve_layer", "most_valuable", "offer"]

LEAST_GAIN = 0.03  # of a layer's bytes a token, for which steps are worth their time
GAINED = 0.3  # of the neurons let through in vain, what steps take off at most (NOTES, "Predictors")
TRIAL = 50  # steps
TRIAL_GAIN = 0.01  # of a layer's bytes, from which on more steps are expected to come to LEAST_GAIN
TEN_MINUTES = 600.0


@dataclass(frozen=True)
class Candidate:
    """A layer whose predictor may be worth steps. hoped: bytes a token that they may save."""

    number: int
    hoped: float


@dataclass(frozen=True)
class Improvement:
    """predictor: None where steps do not pay, or there was no time for them. saved: bytes a token. left: those that
    there was no time for. seconds: that it took, and `needed` that it would have.
    """

    predictor: TrainedPredictor | None
    saved: float = 0.0
    left: float = 0.0
    seconds: float = 0.0
    needed: float = 0.0


@dataclass(frozen=True)
class Offer:
    """What more time would buy: bytes a token, expected. ten_minutes: of the next 600 s; all: of `seconds`."""

    ten_minutes: float = 0.0
    all: float = 0.0
    seconds: float = 0.0


def most_valuable(reports: Sequence[PredictorReport], n_ff: Sequence[int], costs: Sequence[Costs]) -> list[Candidate]:
    """Layers in which steps can save LEAST_GAIN of the bytes, the most valuable first."""
    found = []
    for number, (report, count, cost) in enumerate(zip(reports, n_ff, costs, strict=True)):
        idle = max(0.0, report.predicted_density - report.true_density)
        now = cost.of_report(report, count)
        hoped = now - cost.of(report.predicted_density - GAINED * idle, report.rank, count, report.true_density)
        if not report.is_dense and hoped >= LEAST_GAIN * now:
            found.append(Candidate(number, hoped))
    return sorted(found, key=lambda one: -one.hoped)


def improve_layer(
    candidate: Candidate,
    samples: Samples,
    closed: TrainedPredictor,
    costs: Costs,
    options: PredictorOptions,
    deadline: float,
    stop: Event,
) -> Improvement:
    """Try a few steps, then all, if that promises to pay and ends before `deadline` (of time.monotonic()).

    What time decides is only which layers have steps: their outcome does not depend on it.
    """
    begin = time.monotonic()
    train, held = samples.to(options.device).split(options.validation_share)
    n_ff = samples.n_ff
    now = costs.of_report(closed.report, n_ff)

    def after(steps: int) -> tuple[TrainedPredictor, float]:
        found = improve(train, held, closed, replace(options, steps=steps), on_step=lambda *_: check(stop))
        return found, now - costs.of_report(found.report, n_ff)

    if begin >= deadline:
        return Improvement(None, left=candidate.hoped)
    best, saved = after(min(TRIAL, options.steps))
    took = time.monotonic() - begin
    if options.steps > TRIAL:
        if saved < TRIAL_GAIN * now:
            return Improvement(None, seconds=took)
        needed = took * options.steps / TRIAL
        if time.monotonic() + needed > deadline:
            return Improvement(None, left=candidate.hoped, seconds=took, needed=needed)
        best, saved = after(options.steps)
    pays = saved >= LEAST_GAIN * now
    return Improvement(best if pays else None, saved if pays else 0.0, seconds=time.monotonic() - begin)


def check(stop: Event) -> None:
    """Raises InterruptedError once somebody wants it all to end."""
    if stop.is_set():
        raise InterruptedError


def offer(found: Sequence[Improvement], workers: int) -> Offer:
    """From what was found: layers that there was no time for, at the rate at which others took theirs."""
    left = [one for one in found if one.left]
    if not left:
        return Offer()
    known = [one.needed or one.seconds for one in found if one.needed or (one.seconds and not one.left)]
    usual = sum(known) / len(known) if known else TEN_MINUTES
    hoped, seconds, within = 0.0, 0.0, 0.0
    for one in sorted(left, key=lambda one: -one.left):
        seconds += (one.needed or usual) / workers
        hoped += one.left
        within = hoped if seconds <= TEN_MINUTES else within
    return Offer(within, hoped, seconds)
