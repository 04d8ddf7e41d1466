"""`powerinfer warmup`: compile kernels ahead of their first use, as when an image is built."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.model import CacheTypeFlag
from powerinfer_cli.commands.shared.terminal import Terminal
from powerinfer_cli.errors import PowerInferError

if TYPE_CHECKING:  # imports torch
    from powerinfer_cli.runtime import LoadEvents

__all__ = ["app"]

EPILOG = """powerinfer warmup                     whatever any model may need
powerinfer warmup -m model.gguf       what this one needs

POWERINFER_CACHE names another folder for compiled kernels than the user's cache."""

COMPILING = "compiling kernels"
SHORT = 8  # tokens of context: kernels are the same for any


@dataclass(frozen=True)
class WarmupFlags:
    """What is compiled, and by how many."""

    model: Annotated[
        Path | None, typer.Option("-m", "--model", metavar="FILE", help="Only what this GGUF file needs.")
    ] = None
    type_k: Annotated[
        CacheTypeFlag, typer.Option("-ctk", "--cache-type-k", help="With -m: for keys cached as this.")
    ] = CacheTypeFlag.F16
    type_v: Annotated[
        CacheTypeFlag, typer.Option("-ctv", "--cache-type-v", help="With -m: for values cached as this.")
    ] = CacheTypeFlag.F16
    jobs: Annotated[
        int, typer.Option("-j", "--jobs", min=0, metavar="N", help="Processes that compile; 0: one per core.")
    ] = 0


def warmup(flags: WarmupFlags) -> None:
    """Compile kernels ahead of their first use. Those that are compiled already stay.

    Raises:
        PowerInferError: they could not be kept on the disk, or what loading the model raises.
    """
    from powerinfer_cli.commands.shared.loading import Loading
    from powerinfer_cli.kernels.jit import RUNG, RUNG_REASON, cache_folder, not_kept

    terminal = Terminal(color=False, quiet=False)
    terminal.tell(f"rung:    {RUNG} ({RUNG_REASON})")
    start = time.perf_counter()
    with Loading(terminal.note) as events:
        compiled, total = (
            _everything(flags.jobs, events) if flags.model is None else _for_model(flags.model, flags, events)
        )
    lost = not_kept()
    if lost is not None:
        raise PowerInferError(f"compiled kernels cannot be kept ({lost})")
    seconds = time.perf_counter() - start
    if compiled:
        terminal.tell(f"kernels: {compiled} compiled, in {seconds:.1f} s")
    else:
        terminal.tell("kernels: nothing to compile" + (f", all {total} are there" if total else ""))
    terminal.tell(f"cache:   {cache_folder()}")


app = command_app("warmup", warmup, EPILOG)


def _everything(jobs: int, events: "LoadEvents") -> tuple[int, int]:
    from powerinfer_cli.kernels.jit.ahead import compile_all
    from powerinfer_cli.runtime.threads import default_threads

    return compile_all(jobs or default_threads(), lambda done, total: events.progress(COMPILING, done, total))


def _for_model(path: Path, flags: WarmupFlags, events: "LoadEvents") -> tuple[int, int]:
    """Load it, its weights left in the file, or even a large one takes long; loading compiles all it needs."""
    from powerinfer_cli.opening import PlacementWishes, open_model
    from powerinfer_cli.runtime import EngineOptions

    compiled = 0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal compiled
        events.progress(what, done, total)
        if what.startswith(COMPILING) and done == 0:
            compiled += total

    options = EngineOptions(n_ctx=SHORT, repack=False, type_k=flags.type_k.value, type_v=flags.type_v.value)
    open_model(path, options, PlacementWishes(device="cpu"), text=False, events=replace(events, progress=progress))
    return compiled, 0
