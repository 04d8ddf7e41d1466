"""What GPU memory gains a model: the time that its plan needs for a token, by how much of a budget it may use."""

from dataclasses import replace
from pathlib import Path

from powerinfer_cli.model import load_model, with_predictors
from powerinfer_cli.opening.companions import find_companions
from powerinfer_cli.opening.model_file import open_model_file
from powerinfer_cli.opening.planning.gpus import find_target
from powerinfer_cli.opening.planning.plan_job import PlanJob
from powerinfer_cli.opening.wishes import PlacementWishes
from powerinfer_cli.runtime import EngineOptions, LoadEvents

__all__ = ["token_seconds"]


def token_seconds(
    path: Path,
    options: EngineOptions,
    wishes: PlacementWishes,
    predictor_path: Path | None,
    events: LoadEvents,
    steps: int,
) -> list[float]:
    """As the planner predicts them for 0, 1, ... `steps` parts of steps of the budgets; empty where no GPU is used.

    Raises PowerInferError: the model does not run here.
    """
    with open_model_file(path) as gguf:
        model = load_model(gguf)
        beside = find_companions(gguf, model, predictor_path, events.note)
        if beside.predictors is not None:
            model = with_predictors(model, beside.predictors)
        target = find_target(wishes, events.note)
        if target is None or target.budgets is None or not model.config.causal:
            return []
        parts = [tuple(budget * step // steps for budget in target.budgets) for step in range(steps + 1)]
        targets = [replace(target, budgets=part) for part in parts]
        jobs = [PlanJob.of(gguf, model, options, one, beside, wishes.max_layers, wishes.adaptive) for one in targets]
        profile, _ = jobs[-1].asked(wishes).costs(events)
        return [job.asked(wishes).make(profile, "greedy").prediction.seconds for job in jobs]
