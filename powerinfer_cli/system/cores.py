"""Which cores there are for this process, which of them are one or near one memory, how busy they are, and threads
that keep to some.

macOS lets nobody choose cores. Windows numbers them in groups of 64; what is chosen here is of the process's group.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from powerinfer_cli.system import macos, windows
from powerinfer_cli.system.which import MACOS, WINDOWS

__all__ = ["PINS", "busy_seconds", "current_core", "memory_nodes", "physical_cores", "pin_thread", "usable_cores"]

PINS = hasattr(os, "sched_setaffinity") or WINDOWS
"""Whether `pin_thread` does anything."""
_CPUS, _NODES, _STAT = Path("/sys/devices/system/cpu"), Path("/sys/devices/system/node"), Path("/proc/stat")


def usable_cores() -> frozenset[int]:
    """The logical cores this process may run on: fewer than the machine has where a container or `taskset` says so."""
    if WINDOWS and (mask := windows.usable_mask()):
        return frozenset(core for core in range(mask.bit_length()) if mask >> core & 1)
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def pin_thread(cores: frozenset[int]) -> None:
    """Keep the calling thread on these cores, where the system has a way to say so. Raises OSError."""
    if WINDOWS:
        windows.allow_cores(sum(1 << core for core in cores))
    elif PINS:
        os.sched_setaffinity(0, cores)


def physical_cores(logical: Iterable[int]) -> int:
    """How many physical cores these logical ones are; as many as given where the system does not say.

    On Macs the fast ones alone: the others would make them wait.
    """
    cores = frozenset(logical)
    if MACOS:
        fast = macos.sysctl_number("hw.perflevel0.physicalcpu") or macos.sysctl_number("hw.physicalcpu")
        return max(1, min(fast or len(cores), len(cores)))
    if WINDOWS:
        used = sum(any(mask >> core & 1 for core in cores) for mask in windows.core_masks())
        return used or max(1, len(cores))
    found = set()
    for core in cores:
        try:
            found.add((_CPUS / f"cpu{core}" / "topology" / "thread_siblings_list").read_text().strip())
        except OSError:
            found.add(str(core))
    return max(1, len(found))


def current_core() -> int:
    """The core on which this thread runs just now; the first usable one where the system does not say."""
    return os.sched_getcpu() if hasattr(os, "sched_getcpu") else min(usable_cores())


def memory_nodes() -> list[frozenset[int]]:
    """The usable cores of each NUMA node that has any. None where the system does not say, as Linux alone does."""
    nodes = []
    for folder in sorted(_NODES.glob("node[0-9]*"), key=lambda p: int(p.name[4:])):
        try:
            cores = frozenset(_core_list((folder / "cpulist").read_text())) & usable_cores()
        except (OSError, ValueError):
            continue
        if cores:
            nodes.append(cores)
    return nodes


def _core_list(text: str) -> list[int]:
    """ "0-3,8" -> [0, 1, 2, 3, 8]"""
    cores: list[int] = []
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        cores += range(int(low), int(high or low) + 1)
    return cores


def busy_seconds() -> float | None:
    """User, nice, system, interrupts and what a hypervisor took, of the cores that may be used, since the machine was
    started. None where the system does not say, as Linux alone does.
    """
    try:
        lines = _STAT.read_text().splitlines()
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    cores = {f"cpu{core}" for core in usable_cores()}
    total = 0
    for line in lines:
        name, *numbers = line.split()
        if name in cores:
            user, nice, system, _idle, _waiting, *rest = (int(number) for number in numbers[:8])
            total += user + nice + system + sum(rest)
    return total / ticks
