"""A mixture's activation statistics: counts of its experts, and of dense layers' neurons, which every token needs."""

from dataclasses import replace
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import Model
from powerinfer_cli.placement import ActivationStatistics, RouteTrace, load_routes, load_statistics
from solver.owner import whose_statistics

__all__ = ["expert_routes", "expert_statistics"]


def expert_statistics(folder: Path, model: Model) -> ActivationStatistics:
    """Those of an `activation` folder, and of how many tokens they are: each of these chose as many experts.

    Raises PowerInferError: they are another model's, or no counts.
    """
    found = load_statistics(folder, model.n_groups)
    uses = (found.counts[layer].sum() / n_chosen for layer, n_chosen in model.n_chosen.items())
    return replace(found, tokens=max(1, round(max(uses))))


def expert_routes(path: Path, model: Model) -> RouteTrace:
    """The trace that the statistics beside it were counted from.

    Raises PowerInferError: it is another model's, or no trace.
    """
    trace = load_routes(path, model.n_experts)
    if (
        whose_statistics(path.parent) not in (None, trace.model)
        or dict(zip(trace.layers, trace.n_chosen, strict=True)) != model.n_chosen
    ):
        raise PowerInferError(f"{path}: a route trace of another model")
    return trace
