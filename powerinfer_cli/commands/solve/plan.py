"""The last stage of `powerinfer solve`: from what was made to a plan in a file."""

from dataclasses import replace
from pathlib import Path

from powerinfer_cli.commands.solve.flags import PlanFlags
from powerinfer_cli.commands.solve.target import Machine, whole_target
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.opening import Companions
from powerinfer_cli.opening.plan_files import keep_plan
from powerinfer_cli.opening.plan_job import PlanJob
from powerinfer_cli.placement import Plan
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.runtime.device.cold_stream import streamable
from solver.report import Planned
from solver.run import Made

__all__ = ["plan_stage", "profiling_options"]

CHUNK = 512  # tokens of a text that pass through the model at a time


def profiling_options(
    gguf: GGUFFile, path: Path, options: EngineOptions, machine: Machine
) -> tuple[EngineOptions, Plan | None]:
    """How the model runs while it is profiled: by whole layers on this machine's GPUs, if it has any."""
    target = whole_target(machine)
    if target is None:
        return options, None
    every = replace(options, n_ctx=CHUNK, all_active=True)
    job = PlanJob.of(gguf, path, every, target, Companions(None, None))
    plan = job.whole_layers().plan
    return (replace(options, devices=target.devices), plan) if plan.gpus else (options, None)


def plan_stage(
    gguf: GGUFFile,
    path: Path,
    options: EngineOptions,
    made: Made,
    machine: Machine,
    flags: PlanFlags,
    file: Path | None,
    events: LoadEvents,
) -> Planned:
    """Place the model's neurons, and keep the plan.

    Raises:
        PowerInferError: there is nothing to plan by, or the plan cannot be written.
    """
    if made.statistics is None or not (gguf.sparse or made.predictors):
        what = "activation statistics" if made.statistics is None else "predictors"
        raise PowerInferError(f"no {what} to plan by: leave --plan-only out, and they are made")
    beside = Companions(made.statistics, made.predictors, made.together)
    job = PlanJob.of(gguf, path, options, machine.target, beside, flags.wishes().max_layers)
    if not machine.target.rehearsed and machine.target.devices and streamable(job.model):
        job = replace(job, options=replace(job.options, stream_from=options.n_ubatch))
    profile, name = (machine.profile, machine.name) if machine.profile else job.costs(events, anew=True)
    result = job.make(profile, flags.solver.value)
    kept = None
    if result.plan.gpus:
        kept = keep_plan(path, result.plan, job.conditions(name), job.sizes, events.note, file)
    return Planned(result, job.sizes, profile, machine.gpus, job.options.n_ctx, job.kind, kept)
