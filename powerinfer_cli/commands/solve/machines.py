"""`powerinfer solve --machines`: how layers are divided among machines; `--measure-machine`: what this one costs."""

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from powerinfer_cli.commands.solve.console import make_console
from powerinfer_cli.commands.solve.costs import Costs
from powerinfer_cli.commands.solve.flags import MachinesFlags, PlanFlags
from powerinfer_cli.commands.solve.progress import Working
from powerinfer_cli.commands.solve.target import find_machine
from powerinfer_cli.errors import UsageError
from powerinfer_cli.files import check_writable
from powerinfer_cli.model import load_model
from powerinfer_cli.opening import Companions, open_model_file
from powerinfer_cli.opening.opened import ModelFiles, read_files
from powerinfer_cli.opening.planning.gpus import Target
from powerinfer_cli.opening.planning.plan_job import PlanJob
from powerinfer_cli.runtime import EngineOptions
from powerinfer_cli.runtime.device.bytes import model_bytes
from powerinfer_cli.system.memory import available_memory
from solver.machines.network import HOST, MOST_NAME, Network, read_machines
from solver.machines.plan import MachinesPlan, Pipeline, main_bytes, plan_machines
from solver.machines.report import best_number, command, machines_data, sentence, shown_vram
from solver.placing import activity_from, always_active, save_profile
from solver.placing.simulation import Work

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["measure_this_machine", "plan_for_machines"]

CONTEXT = 4096  # tokens of a text, where nobody says how many
DEPTH = 0.5  # the context is half full
SHARE = 0.9  # of the memory that is free now, for a rank


def plan_for_machines(
    path: Path, options: EngineOptions, predictor: Path | None, flags: MachinesFlags, *, as_json: bool
) -> None:
    """Raises PowerInferError: the machines' file says what cannot be, or the model does not fit them."""
    assert flags.machines is not None  # it is why this is called
    network = read_machines(flags.machines)
    with Working() as events:
        files = read_files(path, predictor, events, text=False)
        if not files.model.config.causal:
            raise UsageError(
                f"{path}: an encoder decodes nothing, and --machines plans for decoding: ranks divide it by bytes"
            )
        pipeline = pipeline_of(files, with_texts(files, options, flags.parallel), flags)
        events.progress("dividing layers among machines", 0, 1)
        plans = plan_machines(pipeline, network)
    best = best_number(plans, pipeline, network)
    words = ["-m", str(path), *planned_with(options, predictor)]
    if as_json:
        sys.stdout.write(json.dumps(machines_data(plans, best, pipeline, network, words), indent=2) + "\n")
        return
    _show(plans, best, pipeline, network)
    sys.stdout.write(sentence(plans, best, network, pipeline.n_texts) + "\n")
    told = command(plans[best], network, words, pipeline)
    print(f"run it: {told}", file=sys.stderr)
    if " --vram-budget VRAM" in told:
        those = [network.machines[m] for m in plans[best].machines]
        shares = ", ".join(f"{shown_vram(one.vram)} on {one.name}" for one in those)
        print(f"VRAM is {shares}", file=sys.stderr)


def planned_with(options: EngineOptions, predictor: Path | None) -> list[str]:
    """The flags of `main`, `server` and `cluster run` that say the same again, but for the context and texts."""
    usual = EngineOptions()
    flags = {
        "--predictor-path": (predictor, None),
        "-ctk": (options.type_k, usual.type_k),
        "-ctv": (options.type_v, usual.type_v),
        "-t": (options.n_threads, usual.n_threads),
        "-tb": (options.n_threads_batch, usual.n_threads_batch),
        "-b": (options.n_batch, usual.n_batch),
        "-ub": (options.n_ubatch, usual.n_ubatch),
    }
    return [word for flag, (value, other) in flags.items() if value != other for word in (flag, str(value))]


def with_texts(files: ModelFiles, options: EngineOptions, n_texts: int) -> EngineOptions:
    """As a server with so many slots runs; the context is that of all of them."""
    n_ctx = options.n_ctx or n_texts * min(CONTEXT, files.model.config.n_ctx_train)
    return replace(options, n_ctx=n_ctx, n_sequences=n_texts)


def pipeline_of(files: ModelFiles, options: EngineOptions, flags: MachinesFlags) -> Pipeline:
    """options: with a context, and texts."""
    model, beside = files.model, files.beside
    sizes = model_bytes(model, replace(options, n_sequences=1), max(1, options.n_ctx // options.n_sequences))
    job = PlanJob.of(files.gguf, model, replace(options, n_ctx=1, n_sequences=1), Target((), ()), beside)
    settings = job.settings("milp")
    known = beside.statistics if job.divisible else None
    activity = always_active(sizes.layers) if known is None else activity_from(known, let_through=beside.let_through)
    work = Work(sizes, activity, settings.kind, settings.n_embd, DEPTH, settings.head_kind)
    main = main_bytes(model, options, options.n_ctx)
    return Pipeline(work, main, model.config.n_vocab, options.n_ctx, flags.link_type.n_bytes, options.n_sequences)


def _show(plans: "Mapping[int, MachinesPlan]", best: int, pipeline: Pipeline, network: Network) -> None:
    table = Table(title="tokens a second that are to be expected", title_justify="left")
    table.add_column("machines", justify="right")
    table.add_column("layers")
    table.add_column("one text", justify="right")
    if pipeline.n_texts > 1:
        table.add_column(f"{pipeline.n_texts} texts", justify="right")
    for n, plan in plans.items():
        parts = zip(plan.machines, plan.ranges, strict=True)
        layers = ", ".join(f"{network.machines[m].name}: {one.begin}-{one.end - 1}" for m, one in parts)
        speeds = [plan.one_text, *([plan.tokens_per_second] if pipeline.n_texts > 1 else [])]
        style = "bold" if n == best else None
        table.add_row(str(n), layers, *(f"{speed:,.1f}" for speed in speeds), style=style)
    make_console().print(table)


def own_name() -> str:
    """This machine's, as a list of machines takes it."""
    name = socket.gethostname()[:MOST_NAME]
    return name if HOST.fullmatch(name) else "localhost"


def measure_this_machine(path: Path, options: EngineOptions, plan: PlanFlags, file: Path, *, as_json: bool) -> None:
    """Write what this machine costs for a model's types and sizes, and its entry in a list of machines.

    Raises:
        UsageError: another machine is planned for; PowerInferError: the file cannot be written.
    """
    check_writable(file.parent, "name another place")
    with Working() as events:
        machine = find_machine(plan, events.note)
        if machine.profile is not None:
            raise UsageError("--measure-machine measures this machine, not a data sheet's: it has no such GPU")
        gguf = open_model_file(path)
        beside = Companions(None, None)
        job = PlanJob.of(gguf, load_model(gguf), replace(options, n_ctx=1), machine.target, beside)
        profile, _ = Costs(machine, events).of(job)
        save_profile(file, profile)
    gib = 1 << 30
    entry = {"name": own_name(), "memory_gib": round(SHARE * available_memory() / gib, 1)}
    entry |= {"costs": file.name}
    if machine.target.devices:
        entry |= {"vram_gib": [round(budget / gib, 2) for budget in job.budgets]}
    sys.stdout.write(json.dumps(entry, indent=2 if as_json else None) + "\n")
    print(f"put this among the machines of a file beside {file}, for --machines", file=sys.stderr)
