"""`powerinfer bench`: how fast models run here, and how near that is to what memory allows."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerinfer_cli.commands.bench.output import Format, printer
from powerinfer_cli.commands.bench.plan import Setup, Workload, parse_numbers, parse_pairs, setups, workloads
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.drafts import DraftFlags
from powerinfer_cli.commands.shared.flags.machine import MachineFlags, Strict, with_machine
from powerinfer_cli.commands.shared.flags.model import MOST_THREADS, ModelFlags
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.commands.shared.loading import Loading
from powerinfer_cli.commands.shared.model_source import find_model
from powerinfer_cli.commands.shared.terminal import Terminal
from powerinfer_cli.errors import UsageError

if TYPE_CHECKING:  # these import torch
    from powerinfer_cli.commands.bench.run import Bench
    from powerinfer_cli.commands.shared.interrupts import Interrupt
    from powerinfer_cli.drafting import DraftOptions
    from powerinfer_cli.opening import PlacementWishes
    from powerinfer_cli.runtime import EngineOptions

__all__ = ["app"]

EPILOG = """Lists take commas or a repeated flag, and ranges: first-last, first-last+step, first-last*factor.
Every combination is measured.

powerinfer bench                                     the bundled model
powerinfer bench -m a.gguf,b.gguf -p 128,512 -n 64 -t 1,2
powerinfer bench -m model.gguf -p 0 -n 64 -d 0-2048+512 -o jsonl"""

Extras = tuple[Path | None, "PlacementWishes", "DraftOptions"]  # predictors' folder, what goes to GPUs, who drafts


def _test(*names: str, help: str, metavar: str = "N,...") -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Tests")


def _run(*names: str, help: str, metavar: str | None = None, low: int | None = None) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, min=low, rich_help_panel="Runs and output")


@dataclass(frozen=True)
class WhatFlags:
    """What is measured: every combination."""

    model: Annotated[
        list[str],
        _test("-m", "--model", metavar="FILE|NAME,...", help="GGUF files, or models' names. Without, the bundled one."),
    ] = field(default_factory=list)
    n_prompt: Annotated[list[str], _test("-p", "--n-prompt", help="Prompt tokens; 0: none. Default 512.")] = field(
        default_factory=list
    )
    n_gen: Annotated[list[str], _test("-n", "--n-gen", help="Tokens to generate; 0: none. Default 128.")] = field(
        default_factory=list
    )
    n_pg: Annotated[list[str], _test("-pg", metavar="PP,TG", help="A prompt and a generation in one test.")] = field(
        default_factory=list
    )
    n_depth: Annotated[list[str], _test("-d", "--n-depth", help="Tokens in the context before. Default 0.")] = field(
        default_factory=list
    )
    batch_size: Annotated[list[str], _test("-b", "--batch-size", help="Default 2048.")] = field(default_factory=list)
    ubatch_size: Annotated[
        list[str], _test("-ub", "--ubatch-size", help="Tokens evaluated at a time. Default 512.")
    ] = field(default_factory=list)
    type_k: Annotated[
        list[str], _test("-ctk", "--cache-type-k", metavar="TYPE,...", help="Of the cached keys. Default f16.")
    ] = field(default_factory=list)
    type_v: Annotated[
        list[str], _test("-ctv", "--cache-type-v", metavar="TYPE,...", help="Of the cached values. Default f16.")
    ] = field(default_factory=list)
    threads: Annotated[list[str], _test("-t", "--threads", help="CPU threads. Default: one per physical core.")] = (
        field(default_factory=list)
    )


@dataclass(frozen=True)
class RunFlags:
    """How it is measured and told."""

    repetitions: Annotated[int, _run("-r", "--repetitions", metavar="N", low=1, help="Runs of each test.")] = 5
    output: Annotated[Format, _run("-o", "--output", help="Format on standard output.")] = Format.MD
    delay: Annotated[int, _run("--delay", metavar="N", low=0, help="Seconds to wait before each test.")] = 0
    no_warmup: Annotated[bool, _run("--no-warmup", help="Skip the run before the first that counts.")] = False
    progress: Annotated[bool, _run("--progress", help="Tell on standard error what is running.")] = False


def bench(
    what: WhatFlags,
    predictor: PredictorFlags,
    machine: MachineFlags,
    placement: PlacementFlags,
    drafts: DraftFlags,
    run: RunFlags,
) -> None:
    """Measure tokens per second, bytes read per token, and the share of the memory's bandwidth that is used."""
    plan = workloads(
        parse_numbers("-p", what.n_prompt or ["512"]),
        parse_numbers("-n", what.n_gen or ["128"]),
        parse_pairs(what.n_pg),
        parse_numbers("-d", what.n_depth or ["0"]),
    )
    if not plan:
        raise UsageError("nothing to measure: -p and -n are both 0")
    _measure(_setups(what), machine, plan, run, (predictor.predictor_path, placement.wishes(), drafts.options()))


app = command_app("bench", bench, EPILOG)


def _setups(flags: WhatFlags) -> list[Setup]:
    from powerinfer_cli.runtime import EngineOptions
    from powerinfer_cli.runtime.options import CACHE_TYPES
    from powerinfer_cli.runtime.threads import default_threads

    def types(flag: str, texts: list[str], default: str) -> list[str]:
        names = ",".join(texts or [default]).lower().split(",")
        for name in names:
            if name not in CACHE_TYPES:
                raise UsageError(f"{flag} {name[:20]!r}: must be one of {', '.join(CACHE_TYPES)}")
        return names

    default = EngineOptions()
    named = [Path(name) for text in flags.model for name in text.split(",") if name]
    if flags.model and not named:
        raise UsageError("-m is empty: name a GGUF file, or leave -m out for the bundled model")
    models = [find_model(ModelFlags(model=name)) for name in named] or [find_model(ModelFlags())]
    return list(
        setups(
            models=models,
            batches=parse_numbers("-b", flags.batch_size or [str(default.n_batch)], least=1),
            ubatches=parse_numbers("-ub", flags.ubatch_size or [str(default.n_ubatch)], least=1),
            types_k=types("-ctk", flags.type_k, default.type_k),
            types_v=types("-ctv", flags.type_v, default.type_v),
            threads=parse_numbers("-t", flags.threads or [str(default_threads())], least=1, most=MOST_THREADS),
        )
    )


def _measure(wanted: list[Setup], machine: MachineFlags, plan: list[Workload], run: RunFlags, extras: Extras) -> None:
    from powerinfer_cli.commands.bench.run import options_for
    from powerinfer_cli.commands.shared.interrupts import Interrupt, Interruption

    terminal = Terminal(color=False, quiet=False)
    say = terminal.tell if run.progress else lambda line: None
    out = printer(run.output, _write, _varied(wanted) | _chosen(machine) | _drafting(extras))
    n_ctx = max(test.n_ctx for test in plan)
    options = [with_machine(options_for(setup, n_ctx), machine) for setup in wanted]
    number, total = 0, len(wanted) * len(plan)
    with Interrupt() as interrupt:
        out.begin()
        try:
            for loaded in _loaded(wanted, options, extras, interrupt, terminal, say):
                for test in plan:
                    interrupt.check()
                    number += 1
                    time.sleep(run.delay)
                    progress = _after(f"test {number}/{total}, {test.name}: ", say)
                    out.add(loaded.run(test, run.repetitions, warmup=not run.no_warmup, progress=progress))
        except Interruption as interrupted:
            raise KeyboardInterrupt from interrupted
        finally:
            out.end()


def _loaded(
    wanted: Sequence[Setup],
    options: Sequence["EngineOptions"],
    extras: Extras,
    interrupt: "Interrupt",
    terminal: Terminal,
    say: Callable[[str], None],
) -> Iterator["Bench"]:
    """Each setup's model, one at a time in memory; it stays where only the number of threads changes."""
    from powerinfer_cli.commands.bench.run import open_bench

    loaded: Bench | None = None
    for setup, how in zip(wanted, options, strict=True):
        threads = f"{setup.n_threads} thread{'s' if setup.n_threads != 1 else ''}"
        if loaded is not None and loaded.switch(setup):
            say(f"now {threads}")
        else:
            loaded = None  # or two models are in memory while the next one loads
            say(f"loading {setup.model}, {threads}")
            with Loading(terminal.note) as events:
                loaded = open_bench(setup, how, interrupt, events, *extras)
        yield loaded


def _after(head: str, say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: say(head + line)


def _varied(wanted: Sequence[Setup]) -> set[str]:
    """What a table's reader must be told of the setups: fields that differ, and those that were chosen."""
    default = {"n_batch": "2048", "n_ubatch": "512", "type_k": "f16", "type_v": "f16"}
    return {name for name, usual in default.items() if {str(getattr(s, name)) for s in wanted} != {usual}}


def _chosen(machine: MachineFlags) -> set[str]:
    """The same of the machine and of the instructions."""
    pinned = machine.cpu_mask is not None or machine.cpu_range is not None or machine.numa is not None
    chosen = {
        "rung": bool(os.environ.get("POWERINFER_CPU")),
        "cpu_mask": pinned,
        "cpu_strict": machine.cpu_strict is Strict.ON,
        "repack": not machine.repack,
        "mlock": machine.mlock,
        "reference": machine.reference,
    }
    return {name for name, differs in chosen.items() if differs}


def _drafting(extras: Extras) -> set[str]:
    return {"spec_type", "accepted"} if extras[2].wanted else set()


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
