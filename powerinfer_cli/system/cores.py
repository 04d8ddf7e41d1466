"""Which cores there are for this process, which of them are one, and threads that keep to some.

macOS lets nobody choose cores. Windows numbers them in groups of 64; what is chosen here is of the process's group.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from powerinfer_cli.system import macos, windows
from powerinfer_cli.system.which import MACOS, WINDOWS

__all__ = ["PINS", "physical_cores", "pin_thread", "usable_cores"]

PINS = hasattr(os, "sched_setaffinity") or WINDOWS
"""Whether `pin_thread` does anything."""
_CPUS = Path("/sys/devices/system/cpu")


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
