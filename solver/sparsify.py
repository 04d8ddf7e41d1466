"""From a dense model to a sparse one that is good enough: how many neurons, predictors for them, and what they cost."""

import json
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from solver.held_out_stages import density_stage, quality_stage
from solver.predictor import STEPS, DensityChoice, PredictorReport, Quality, TrainOptions
from solver.profile import ActiveRule, Chunks, held_out, made_of
from solver.stages import Place, SolverModel, predictor_stage
from solver.state import read_state

__all__ = ["MOST_LOSS", "SparseModel", "SparsifyWishes", "sparsify"]

MOST_LOSS = 0.05
DENSITY, QUALITY = "density", "quality"
TRIES = 3
RAISED = 2 / STEPS  # the density, where predictors cost more than they may


@dataclass(frozen=True)
class SparsifyWishes:
    """For models without zeros: `density`, or else the lowest whose perplexity is higher by at most `most_loss`."""

    density: float | None = None
    most_loss: float = MOST_LOSS


@dataclass(frozen=True)
class SparseModel:
    """rule: which neurons count as active. choice: None for a ReLU model. quality: measured with the predictors."""

    rule: ActiveRule
    choice: DensityChoice | None
    reports: list[PredictorReport]
    quality: Quality


def sparsify(
    model: SolverModel,
    chunks: Chunks,
    place: Place,
    wanted: SparsifyWishes,
    options: TrainOptions,
) -> SparseModel:
    """Make predictors, in `place.predictor`, and measure them on held-out chunks; what is there and fits is kept.

    Where the density is to be found, a first one is found with the neurons that are really the largest. If predictors,
    which are not always right, cost more than `most_loss`, they are made for a higher one. Raises PowerInferError.
    """
    relu = model.config.activation.has_exact_zeros
    choice = None if relu else _density(model, chunks, place, wanted)
    density = None if choice is None else choice.density
    for number in range(TRIES):
        rule = ActiveRule(density)
        reports = predictor_stage(model, chunks, place, rule, options)
        quality = _quality(model, chunks, place)
        good = density is None or wanted.density is not None or quality.loss <= wanted.most_loss
        if good or density is None or density >= 1 or number == TRIES - 1:
            break
        raised = min(1.0, density + RAISED)
        through = fmean(report.predicted_density for report in reports)
        if through + RAISED >= 1:
            model.events.note(
                f"density {density:.0%}: perplexity {quality.loss:+.1%} with predictors, more than is allowed; they "
                f"let {through:.0%} through, so that a higher one would spare nothing"
            )
            break
        model.events.note(
            f"density {density:.0%}: perplexity {quality.loss:+.1%} with predictors, but {wanted.most_loss:+.1%} is "
            f"allowed: trying {raised:.0%}"
        )
        density = raised
    return SparseModel(rule, choice, reports, quality)


def _density(model: SolverModel, chunks: Chunks, place: Place, wanted: SparsifyWishes) -> DensityChoice:
    """As `density_stage`, or as it was recorded."""
    made_with: dict[str, Any] = {"model": model.fingerprint, "text": made_of(held_out(chunks)[1]), **asdict(wanted)}
    state = read_state(place.folder)
    found = state.found(DENSITY)
    if state.fits(DENSITY, made_with):
        try:
            return DensityChoice(found["density"], found["loss"], tuple((d, loss) for d, loss in found["measured"]))
        except (KeyError, TypeError, ValueError):
            model.events.note("the density that was found is no longer readable: measuring again")
    choice = density_stage(model, chunks, wanted.density, wanted.most_loss, place)
    read_state(place.folder).with_stage(DENSITY, made_with, asdict(choice))
    return choice


def _quality(model: SolverModel, chunks: Chunks, place: Place) -> Quality:
    """As `quality_stage`, or as it was recorded for these very predictors."""
    state = read_state(place.folder)
    predictors = state.stages.get("predictor", {}).get("made_with", {})
    made_with = {"text": made_of(held_out(chunks)[1]), "predictors": predictors}
    if state.fits(QUALITY, made_with):
        try:
            return Quality(**state.found(QUALITY))
        except TypeError:
            model.events.note("what was measured is no longer readable: measuring again")
    quality = quality_stage(model, chunks, place.predictor, place.work, json.dumps(made_with, sort_keys=True))
    state.with_stage(QUALITY, made_with, asdict(quality))
    return quality
