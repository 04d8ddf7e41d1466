"""`powerinfer solve`: what placing neurons needs, made where it is missing: statistics, predictors, and a plan."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags import ModelFlags
from powerinfer_cli.commands.shared.model_source import find_model
from powerinfer_cli.commands.shared.predictor_flags import PredictorFlags
from powerinfer_cli.commands.shared.text_file import read_text
from powerinfer_cli.commands.solve.flags import PlanFlags, ReportFlags, StageFlags
from powerinfer_cli.commands.solve.outputs import check_outputs
from powerinfer_cli.commands.solve.progress import Working
from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.files import check_writable

if TYPE_CHECKING:  # these import torch
    from powerinfer_cli.commands.solve.target import Machine
    from powerinfer_cli.gguf_io import GGUFFile
    from powerinfer_cli.model import Model
    from powerinfer_cli.placement import Placement
    from powerinfer_cli.runtime import EngineOptions, LoadEvents
    from solver.report import PlanOutcome
    from solver.run import Making, SolveResult
    from solver.stages import Place

__all__ = ["app"]

EPILOG = """Examples:
powerinfer solve -m model.gguf                          all that is missing, for this machine
powerinfer solve -m model.gguf --vram-budget 8          a plan for 8 GiB of GPU memory
powerinfer solve -m dense.gguf -f text.txt --merge sparse.powerinfer.gguf
powerinfer solve -m model.gguf --plan-only --device-profile rtx-4090-ddr5 --report plan.html
powerinfer solve --device-profile list                  machines whose data sheets are here

An interrupted run goes on where it stopped when it is repeated."""


def solve(model: ModelFlags, predictor: PredictorFlags, stages: StageFlags, plan: PlanFlags, told: ReportFlags) -> None:
    """Profile a model, train its predictors if it has none, and plan which neurons go to the GPU.

    What is there and still fits is kept: activation/ and predictor/ beside the model, and MODEL.generated.gpuidx.
    """
    if plan.device_profile == "list":
        _list_profiles()
        return
    stages.check()
    text = None if stages.file is None else read_text(stages.file)
    path = find_model(model)

    from powerinfer_cli.commands.solve.target import find_machine
    from powerinfer_cli.model import load_model
    from powerinfer_cli.opening import open_model_file

    if stages.no_predictors:
        _turn(path, stages, plan, told)
        return
    with Working() as events:
        machine = find_machine(plan, events.note)
        gguf = open_model_file(path)
        try:
            read = load_model(gguf)
            made, planned = _solve(gguf, read, model.options(), predictor, stages, plan, told, machine, text, events)
        except KeyboardInterrupt:
            events.note("interrupted: the same command goes on where this stopped")
            raise
    from powerinfer_cli.commands.solve.output import show

    show(gguf, read.config, made, planned, stages.merge, told, sys.stdout.write)
    _say_how_to_run(path, gguf, made, planned, stages, events)


app = command_app("solve", solve, EPILOG)


def _list_profiles() -> None:
    from solver.placing import bundled_profiles, load_profile

    for name in bundled_profiles():
        profile = load_profile(name)
        typer.echo(f"{name:24} {', '.join(gpu.name for gpu in profile.gpus)}; {profile.cpu.name}")


def _turn(path: Path, stages: StageFlags, plan: PlanFlags, told: ReportFlags) -> None:
    """Write the model with its down matrices transposed, and nothing else."""
    from powerinfer_cli.opening import open_model_file
    from solver.merge import merge

    assert stages.merge is not None  # checked with the flags
    gguf = open_model_file(path)
    _check_files(gguf, stages, plan, told, None)
    with Working() as events:
        merge(gguf, None, stages.merge, events, down=stages.down())
        events.note(f"run it: powerinfer main -m {stages.merge}")


def _solve(
    gguf: "GGUFFile",
    model: "Model",
    options: "EngineOptions",
    predictor: PredictorFlags,
    stages: StageFlags,
    plan: PlanFlags,
    told: ReportFlags,
    machine: "Machine",
    text: str | None,
    events: "LoadEvents",
) -> "tuple[SolveResult, PlanOutcome | None]":
    from powerinfer_cli.commands.solve.plan import plan_stage, profiling_placement
    from solver.merge import merge
    from solver.run import make

    place, plan_file = _place(gguf.path, stages.output)
    _check_files(gguf, stages, plan, told, plan_file)
    if stages.merge and gguf.sparse:
        raise UsageError(f"--merge: {gguf.path} has predictors already")
    how = replace(options, n_ctx=0)
    whole = profiling_placement(gguf, model, how, machine)
    making = _making(stages, predictor, text, whole)
    made = make(gguf, how, place, making, events, placement=whole, model=model)
    if stages.merge and made.folder:
        merge(gguf, made.folder, stages.merge, events, down=stages.down())
    planned = None
    if not (stages.profile_only or stages.train_only):
        planned = plan_stage(gguf, model, options, made, machine, plan, plan_file, events)
    return made, planned


def _check_files(
    gguf: "GGUFFile", stages: StageFlags, plan: PlanFlags, told: ReportFlags, plan_file: Path | None
) -> None:
    """What will be written, against what is read."""
    if plan_file is not None:
        check_writable(plan_file.parent, "name another place with -o")
    named = {"--merge": stages.merge, "--report": told.report}
    if plan_file is not None and plan_file == stages.output:
        named["-o"] = plan_file
    given = [stages.file, None if plan.device_profile is None else Path(plan.device_profile)]
    check_outputs(named, [*gguf.files, *(path for path in given if path is not None)])


def _place(path: Path, output: Path | None) -> "tuple[Place, Path | None]":
    """Where results go, and the plan's file where one is named."""
    from powerinfer_cli.placement import gpuidx_path
    from solver.stages import Place

    if output is None:
        return Place(path.parent), None
    if output.suffix == ".gpuidx":
        return Place(output.parent), output
    if output.exists() and not output.is_dir():
        raise UsageError(f"-o {output} is a file: give a folder, or a plan's name that ends in .gpuidx")
    return Place(output), output / gpuidx_path(path).name


def _making(stages: StageFlags, predictor: PredictorFlags, text: str | None, whole: "Placement | None") -> "Making":
    from solver.run import Making

    return Making(
        text=text,
        profile=not (stages.train_only or stages.plan_only),
        train=not (stages.profile_only or stages.plan_only),
        anew=stages.train_only,
        predictors=predictor.predictor_path,
        density=stages.density,
        most_loss=stages.max_quality_loss,
        options=stages.training(whole.devices[0] if whole else "cpu"),
        force=stages.force,
    )


def _say_how_to_run(
    path: Path,
    gguf: "GGUFFile",
    made: "SolveResult",
    planned: "PlanOutcome | None",
    stages: StageFlags,
    events: "LoadEvents",
) -> None:
    if stages.profile_only:
        return
    if stages.merge:
        events.note(f"run it: powerinfer main -m {stages.merge}")
    elif not gguf.sparse and made.folder:
        events.note(f"run it: powerinfer main -m {path} --predictor-path {made.folder}")
    if planned is not None and planned.result.plan.gpus and planned.file is None:
        raise PowerInferError("the plan is not kept")
