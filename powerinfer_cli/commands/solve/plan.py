"""The last stage of `powerinfer solve`: from what was made to a plan in a file."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from powerinfer_cli.commands.solve.costs import Costs
from powerinfer_cli.commands.solve.flags import PlanFlags
from powerinfer_cli.commands.solve.target import Machine, whole_target
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import Model
from powerinfer_cli.opening import Companions
from powerinfer_cli.opening.planning.plan_files import keep_plan
from powerinfer_cli.opening.planning.plan_job import PlanJob
from powerinfer_cli.placement import Placement
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from solver.report import PlanOutcome
from solver.run import SolveResult

__all__ = ["plan_stage", "profiling_placement"]

CHUNK = 512  # tokens of a text that pass through the model at a time
SEEN = 256  # tokens, by which predictors are known well enough


def profiling_placement(gguf: GGUFFile, model: Model, options: EngineOptions, machine: Machine) -> Placement | None:
    """Where the model lies while it is profiled: by whole layers on this machine's GPUs, if it has any."""
    target = whole_target(machine)
    if target is None:
        return None
    every = replace(options, n_ctx=CHUNK, all_active=True)
    job = PlanJob.of(gguf, model, every, target, Companions(None, None))
    plan = replace(job, streams=False).whole_layers().plan  # no layer is divided
    return Placement(plan, target.devices) if plan.gpus else None


def plan_stage(
    gguf: GGUFFile,
    model: Model,
    options: EngineOptions,
    made: SolveResult,
    costs: Costs,
    flags: PlanFlags,
    file: Path | None,
    ids: Callable[[], Sequence[int]],
    events: LoadEvents,
) -> PlanOutcome:
    """Place the model's neurons, and keep the plan. model: with the predictors that were made for it.

    ids: a text's tokens, to see here what predictors let through where no report says it, whatever the plan is for.

    Raises:
        PowerInferError: there is nothing to plan by, or the plan cannot be written.
    """
    beside = Companions(made.statistics, made.predictors, made.together)
    machine = costs.machine
    wishes = flags.wishes()
    job = PlanJob.of(gguf, model, options, machine.target, beside, wishes.max_layers).asked(wishes)
    counted = made.statistics is not None or model.has_experts  # experts of which nothing is known are all alike
    if not counted or not job.divisible:
        what = "activation statistics" if made.statistics is None else "predictors"
        raise PowerInferError(f"no {what} to plan by: leave --plan-only out, and they are made")
    profile, name = costs.of(job)
    through = tuple(report.predicted_density for report in made.reports) or None
    if through is None and job.config.sparse:
        through = _let_through(job, options, ids()[:SEEN], events)
    result = job.make(profile, flags.solver.value, through)
    kept = None
    if result.plan.gpus:
        kept = keep_plan(
            gguf.path, result.plan, job.conditions(name), job.sizes, events.note, file, routed=model.has_experts
        )
    return PlanOutcome(result, job.sizes, profile, machine.gpus, job.n_ctx, job.kind, kept)


def _let_through(
    job: PlanJob, options: EngineOptions, ids: Sequence[int], events: LoadEvents
) -> tuple[float, ...] | None:
    """By layer, the share of neurons that the model's predictors let through; None where it cannot be run here."""
    n_ctx = min(CHUNK, job.config.n_ctx_train)
    try:
        engine = Engine(job.model, replace(options, n_ctx=n_ctx, n_sequences=1), job.beside.statistics, events)
    except PowerInferError as error:
        events.note(f"planned as if predictors let through what is active, and nothing else: {error}")
        return None
    try:
        engine.prefill(ids[:n_ctx])
        return tuple(map(float, engine.stats.shares(job.config.n_layer)[0]))
    finally:
        engine.close()
