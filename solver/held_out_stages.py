"""The stages that measure what leaving neurons out costs, on documents that nothing was made of."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit
from powerinfer_cli.model import load_predictors, with_predictors
from powerinfer_cli.runtime import Engine
from solver.predictor import DensityChoice, DensityMeter, KeptLosses, Quality, compare, find_density, score
from solver.profile import ActiveRule, Chunks, held_out, made_of, some_of
from solver.stages import Place, SolverModel, clear
from solver.state import read_state

__all__ = ["DENSE_QUALITY", "METERED", "SPARSE_QUALITY", "density_stage", "quality_stage"]

DENSE_QUALITY, SPARSE_QUALITY = "perplexity with every neuron", "perplexity with predictors"
LOSSES = "losses by density"
METERED = 2560  # held-out tokens that densities are tried on
FEWEST = 4000  # held-out tokens, below which a loss says little


def density_stage(
    model: SolverModel, chunks: Chunks, density: float | None, most_loss: float | None, place: Place | None = None
) -> DensityChoice:
    """How many neurons of a SiLU or GELU model to keep: `density`, or the lowest that costs at most `most_loss`.

    Either is measured on held-out chunks; with `place`, interrupted, it goes on where it was. Raises PowerInferError: a
    ReLU model, whose neurons say so themselves.
    """
    if model.config.activation.has_exact_zeros:
        raise PowerInferError(
            f"{model.gguf.path}: a ReLU model's neurons are active or not: there is nothing to choose"
        )
    held = some_of(held_out(chunks)[1], METERED)
    meter = DensityMeter(model.open_engine(), held)
    if density is not None:
        rule = ActiveRule(density)
        loss = meter.loss(density)
        return DensityChoice(density, loss, ((rule.density or 1.0, loss),))
    most = 0.05 if most_loss is None else most_loss
    if place is None:
        return find_density(meter, most, model.events)
    made_with = {"model": model.fingerprint, "text": made_of(held)}
    state = read_state(place.folder)
    known = _losses(state.found(LOSSES)) if state.fits(LOSSES, made_with) else {}

    def keep(found: Mapping[float, float]) -> None:
        state.with_stage(LOSSES, made_with, {f"{one:g}": loss for one, loss in found.items()})

    return find_density(meter, most, model.events, known, keep)


def _losses(found: Mapping[str, Any]) -> dict[float, float]:
    """By density, as they are recorded."""
    try:
        return {float(density): float(loss) for density, loss in found.items()}
    except (TypeError, ValueError):
        return {}


def quality_stage(model: SolverModel, chunks: Chunks, folder: Path, work: Path | None = None, key: str = "") -> Quality:
    """What the predictors in `folder` cost on the held-out chunks; interrupted, it goes on by what is in `work`, if
    that is of the same `key`. Raises PowerInferError.
    """
    config, events, held = model.config, model.events, held_out(chunks)[1]
    tokens = sum(map(len, held))
    if tokens < FEWEST:
        events.note(
            f"quality: measured on {tokens:,} held-out tokens; {FEWEST:,} or more would say it surely: a longer -f"
        )
    predictors = load_predictors(folder, config.n_embd, config.n_ff)
    kept = [KeptLosses(work / f"losses-{name}.npz", key) for name in ("dense", "sparse")] if work else [None, None]
    dense = score(model.open_engine(), held, DENSE_QUALITY, events, kept[0])
    if not any(predictors.layers):  # the same model
        found = compare(dense, dense, model.open_engine())
    else:
        model.forget_engine()
        sparse = Engine(with_predictors(model.model, predictors, CompiledFit()), model.engine_options(), None, events)
        with closing(sparse):
            found = compare(dense, score(sparse, held, SPARSE_QUALITY, events, kept[1]), sparse)
    for one in kept:
        if one is not None:
            one.path.unlink(missing_ok=True)
    if work is not None:
        clear(work)
    return found
