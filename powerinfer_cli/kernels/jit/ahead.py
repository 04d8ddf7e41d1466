"""Compile every kernel there is before it is needed, in several processes: one alone uses one core."""

import importlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import powerinfer_cli.kernels
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.jit import Kernel, declared, not_kept
from powerinfer_cli.system.signals import without_interrupts
from powerinfer_cli.system.which import WINDOWS

__all__ = ["compile_all", "every_kernel"]

Progress = Callable[[int, int], None]

FEW = 4  # kernels that are compiled sooner than other processes have started
MOST = 61  # processes that a pool takes on Windows, which waits for 64 things at once


def every_kernel() -> list[Kernel]:
    """For all weight formats, operations and cache types.

    What does not import `jit` declares none, and is left alone: some of it takes a second to load torch. `simd` is what
    kernels are made of, and loads the compiler.
    """
    package = powerinfer_cli.kernels
    folder = Path(package.__path__[0])
    for path in sorted(folder.rglob("*.py")):
        if path.parent.name != "simd" and "powerinfer_cli.kernels.jit import" in path.read_text("utf-8"):
            importlib.import_module(".".join([package.__name__, *path.relative_to(folder).with_suffix("").parts]))
    return declared()


def compile_all(jobs: int, on_compile: Progress) -> tuple[int, int]:
    """Compile what is not on the disk yet; (how many that was, how many kernels there are).

    Raises:
        PowerInferError: a process ended before its work was done, or could not keep it.
    """
    kernels = every_kernel()
    missing = [one for one in kernels if not one.ready and not one.load()]
    if not missing:
        return 0, len(kernels)
    on_compile(0, len(missing))
    for done, _ in enumerate(_compiled(missing, jobs), start=1):
        on_compile(done, len(missing))
    return len(missing), len(kernels)


def _compiled(kernels: Sequence[Kernel], jobs: int) -> Iterator[str]:
    """The names, as they are done."""
    jobs = min(jobs, len(kernels) // FEW, MOST if WINDOWS else jobs)
    if jobs < 2:
        for one in kernels:
            _ = one.address
            yield one.name
        return
    try:
        yield from _by_processes([one.name for one in reversed(kernels)], jobs)  # families, which take longest, first
    except BrokenProcessPool as error:
        raise PowerInferError("a process that compiled kernels was ended: is there enough memory?") from error


def _by_processes(names: Sequence[str], jobs: int) -> Iterator[str]:
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        with without_interrupts():  # Ctrl-C is for this process, which then ends the others
            waiting = {pool.submit(_compile, name) for name in names}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_KNOWN: dict[str, Kernel] = {}


def _compile(name: str) -> str:
    """In another process. Raises PowerInferError: what is not kept on the disk is lost."""
    if not _KNOWN:
        _KNOWN.update((one.name, one) for one in every_kernel())
    _ = _KNOWN[name].address
    lost = not_kept()
    if lost is not None:
        raise PowerInferError(f"compiled kernels cannot be kept ({lost})")
    return name
