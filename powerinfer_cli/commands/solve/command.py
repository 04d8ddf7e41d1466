"""`powerinfer solve`: what placing neurons needs, made where it is missing: statistics, predictors, and a plan."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.model import ModelFlags
from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.commands.shared.model_source import find_model
from powerinfer_cli.commands.shared.termination import tidy_ending
from powerinfer_cli.commands.shared.text_file import read_text
from powerinfer_cli.commands.solve.flags import MachinesFlags, PlanFlags, ReportFlags, StageFlags
from powerinfer_cli.commands.solve.progress import Working
from powerinfer_cli.errors import PowerInferError

if TYPE_CHECKING:  # these import torch
    from powerinfer_cli.commands.solve.job import Outcome
    from powerinfer_cli.gguf_io import GGUFFile

__all__ = ["app"]

EPILOG = """Examples:
powerinfer solve -m model.gguf --verdict                what the model can gain, in a minute
powerinfer solve -m model.gguf                          that, and all that is missing, for this machine
powerinfer solve -m model.gguf --force --time-budget 10  though little is gained, with ten minutes of steps
powerinfer solve -m model.gguf --vram-budget 8          a plan for 8 GiB of GPU memory
powerinfer solve -m dense.gguf -f text.txt --merge sparse.powerinfer.gguf
powerinfer solve -m model.gguf --plan-only --device-profile rtx-4090-ddr5 --report plan.html
powerinfer solve --device-profile list                  machines whose data sheets are here
powerinfer solve -m model.gguf --measure-machine a.json  what this machine costs, for a list of machines
powerinfer solve -m model.gguf --machines machines.json -np 8   which layers go to which machine

A dense model is judged first; where it would not become 5 % faster, that is all, unless --force is given.
An interrupted run goes on where it stopped when it is repeated."""


def solve(
    model: ModelFlags,
    predictor: PredictorFlags,
    stages: StageFlags,
    plan: PlanFlags,
    machines: MachinesFlags,
    told: ReportFlags,
) -> None:
    """Profile a model, train its predictors if it has none, and plan which neurons go to the GPU.

    What is there and still fits is kept: activation/ and predictor/ beside the model, and MODEL.generated.gpuidx.
    """
    if plan.device_profile == "list":
        _list_profiles()
        return
    stages.check()
    machines.check(stages, plan, told)
    text = None if stages.file is None else read_text(stages.file)
    path = find_model(model)
    with tidy_ending():
        if machines.wanted:
            _several(path, model, predictor, plan, machines, told)
        elif stages.no_predictors:
            _turn(path, stages, plan, told)
        else:
            _solve(path, text, model, predictor, stages, plan, told)


def _several(
    path: Path,
    model: ModelFlags,
    predictor: PredictorFlags,
    plan: PlanFlags,
    machines: MachinesFlags,
    told: ReportFlags,
) -> None:
    from powerinfer_cli.commands.solve.machines import measure_this_machine, plan_for_machines

    if machines.measure_machine is not None:
        measure_this_machine(path, model.options(), plan, machines.measure_machine, as_json=told.json)
    else:
        plan_for_machines(path, model.options(), predictor.predictor_path, machines, as_json=told.json)


app = command_app("solve", solve, EPILOG)


def _solve(
    path: Path,
    text: str | None,
    model: ModelFlags,
    predictor: PredictorFlags,
    stages: StageFlags,
    plan: PlanFlags,
    told: ReportFlags,
) -> None:
    from powerinfer_cli.commands.solve.job import Job
    from powerinfer_cli.commands.solve.output import show
    from powerinfer_cli.commands.solve.target import find_machine
    from powerinfer_cli.model import load_model
    from powerinfer_cli.opening import open_model_file

    working = Working()
    with working as events:
        machine = find_machine(plan, events.note)
        gguf = open_model_file(path)
        try:
            read = load_model(gguf)
            flags = model.options(), predictor, stages, plan, told
            found = Job(gguf, read, *flags, machine, text, working.schedule, events).run()
        except (KeyboardInterrupt, SystemExit):  # that is a signal's
            events.note("interrupted: the same command goes on where this stopped")
            raise
    show(gguf, read.config, found, stages.merge, told, sys.stdout.write)
    _say_how_to_run(path, gguf, found, stages, plan.vram_budget)


def _list_profiles() -> None:
    from solver.placing import bundled_profiles, load_profile

    for name in bundled_profiles():
        profile = load_profile(name)
        typer.echo(f"{name:24} {', '.join(gpu.name for gpu in profile.gpus)}; {profile.cpu.name}")


def _turn(path: Path, stages: StageFlags, plan: PlanFlags, told: ReportFlags) -> None:
    """Write the model with its down matrices transposed, and nothing else."""
    from powerinfer_cli.commands.solve.job import check_files
    from powerinfer_cli.opening import open_model_file
    from solver.merge import merge

    assert stages.merge is not None  # checked with the flags
    gguf = open_model_file(path)
    check_files(gguf, stages, plan, told, None)
    with Working() as events:
        merge(gguf, None, stages.merge, events, down=stages.down())
        events.note(f"run it: powerinfer main -m {stages.merge}")


def _say_how_to_run(path: Path, gguf: "GGUFFile", found: "Outcome", stages: StageFlags, budget: str | None) -> None:
    """The last line: the faster of what may be run."""
    made, planned, compared = found.made, found.planned, found.compared
    if stages.profile_only or made.ended:
        return
    if made.routes is not None:
        placed = budget and planned is not None and planned.result.plan.gpus
        _note(f"run it: powerinfer main -m {path}" + (f" --vram-budget {budget}" if placed else ""))
    sparse = not made.stays_dense and (compared is None or compared.sparse_wins)
    own = path if gguf.sparse else None
    if not sparse and gguf.sparse:
        _note("run the dense file that this model was made of: it is faster")
    elif not sparse:
        _note(f"run the dense file: powerinfer main -m {path}")
    elif stages.merge:
        _note(f"run it: powerinfer main -m {stages.merge}")
    elif own or made.folder:
        beside = "" if own else f" --predictor-path {made.folder}"
        _note(f"run it: powerinfer main -m {path}{beside}")
    if planned is not None and planned.result.plan.gpus and planned.file is None:
        raise PowerInferError("the plan is not kept")


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
