"""How the machine is used, for every command that runs a model: which cores, which memory, which arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from powerinfer_cli.errors import PowerInferError, UsageError

if TYPE_CHECKING:  # imports torch
    from powerinfer_cli.runtime import EngineOptions

__all__ = ["MachineFlags", "Numa", "cpu_line", "with_machine"]


class Numa(StrEnum):
    """How threads are spread over the memory nodes of a large machine."""

    DISTRIBUTE = "distribute"
    ISOLATE = "isolate"
    NUMACTL = "numactl"


class Strict(Enum):
    """llama.cpp's switch takes a number."""

    OFF = "0"
    ON = "1"


def _machine(
    *names: str,
    help: str,  # noqa: A002  # Typer's word
    metavar: str | None = None,
    low: int | None = None,
) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, min=low, rich_help_panel="Machine")


@dataclass(frozen=True)
class MachineFlags:
    """The names and meanings are llama.cpp's, but for --reference."""

    repack: Annotated[
        bool,
        _machine("--repack/--no-repack", " /-nr", help="Weights in a faster layout; without, straight from the file."),
    ] = True
    mlock: Annotated[bool, _machine("--mlock", help="Keep the weights from being paged out.")] = False
    swa_full: Annotated[
        bool, _machine("--swa-full", help="Layers with a window cache everything, not only what the window needs.")
    ] = False
    ctx_checkpoints: Annotated[
        int,
        _machine(
            "-ctxcp",
            "--ctx-checkpoints",
            "--swa-checkpoints",
            low=0,
            metavar="N",
            help="States of recurrent layers saved of a text.",
        ),
    ] = 32
    checkpoint_min_step: Annotated[
        int,
        _machine("-cms", "--checkpoint-min-step", low=0, metavar="N", help="Tokens from one such state to the next."),
    ] = 8192
    numa: Annotated[
        Numa | None, _machine("--numa", help="Spread threads over the nodes, keep to one, or as numactl says.")
    ] = None
    cpu_mask: Annotated[str | None, _machine("-C", "--cpu-mask", metavar="HEX", help="Cores to use, as 0xF.")] = None
    cpu_range: Annotated[
        str | None, _machine("-Cr", "--cpu-range", metavar="LO-HI", help="Cores to use, as 0-3; adds to -C.")
    ] = None
    cpu_strict: Annotated[Strict, _machine("--cpu-strict", help="1: each thread stays on a core of its own.")] = (
        Strict.OFF
    )
    reference: Annotated[
        bool, _machine("--reference", help="Plain float32 arithmetic, to compare with; slow, and needs memory.")
    ] = False


def with_machine(options: "EngineOptions", flags: MachineFlags) -> "EngineOptions":
    """Complete the options. Called before the first model is loaded: loading may pin this thread, too.

    Raises:
        UsageError: flags that exclude each other, or make no sense.
        PowerInferError: cores that are not there.
    """
    kept = replace(options, repack=flags.repack, mlock=flags.mlock, swa_full=flags.swa_full)
    kept = replace(kept, ctx_checkpoints=flags.ctx_checkpoints, checkpoint_min_step=flags.checkpoint_min_step)
    wanted = replace(kept, cores=_cores(flags), reference=flags.reference)
    if flags.reference:
        _check_reference(wanted, flags)
    return wanted


def cpu_line(options: "EngineOptions") -> str:
    """What computes: how many threads, with which instructions."""
    from powerinfer_cli.kernels.jit import RUNG

    count, batch = options.threads
    threads = f"{count} thread{'s' if count != 1 else ''}" + (f" ({batch} for prompts)" if batch != count else "")
    return f"{threads}, {'plain float32 (--reference)' if options.reference else RUNG.label}"


def _cores(flags: MachineFlags) -> tuple[frozenset[int], ...]:
    """Where each thread runs; empty: anywhere."""
    from powerinfer_cli.runtime.threads import numa_cores, parse_cpu_mask, parse_cpu_range
    from powerinfer_cli.system.cores import PINS, usable_cores

    chosen: frozenset[int] = frozenset()
    if flags.cpu_mask is not None:
        chosen |= parse_cpu_mask(flags.cpu_mask)
    if flags.cpu_range is not None:
        chosen |= parse_cpu_range(flags.cpu_range)
    strict = flags.cpu_strict is Strict.ON
    if flags.numa in (Numa.DISTRIBUTE, Numa.ISOLATE):
        if chosen or strict:
            raise UsageError(f"--numa {flags.numa} chooses the cores, and excludes -C, -Cr and --cpu-strict 1")
        return numa_cores(flags.numa)
    if strict and not PINS:
        raise PowerInferError("--cpu-strict 1: this system lets nobody choose the cores of a thread")
    if strict:
        return tuple(frozenset({core}) for core in sorted(chosen or usable_cores()))
    return (chosen,) if chosen else ()


def _check_reference(options: "EngineOptions", flags: MachineFlags) -> None:
    """It has neither layouts nor cache types nor threads of its own: a flag for one of these would do nothing."""
    usual: Mapping[str, Any] = {field.name: field.default for field in fields(options)}
    given = {
        "-ctk": options.type_k != usual["type_k"],
        "-ctv": options.type_v != usual["type_v"],
        "--no-repack": not flags.repack,
        "--mlock": flags.mlock,
        "--numa": flags.numa is not None,
        "-C": flags.cpu_mask is not None,
        "-Cr": flags.cpu_range is not None,
        "--cpu-strict": flags.cpu_strict is Strict.ON,
    }
    idle = [name for name, wanted in given.items() if wanted]
    if idle:
        raise UsageError(f"--reference excludes {', '.join(idle)}: it computes in float32 in one plain way")
