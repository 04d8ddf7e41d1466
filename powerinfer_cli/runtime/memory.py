"""How much main memory there is, and how much this process has used at most."""

import os
import resource
from pathlib import Path

__all__ = ["available_memory", "peak_memory"]


def available_memory() -> int:
    """Bytes that can be allocated without swapping: MemAvailable, or physical memory where /proc does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """Largest resident set of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if os.uname().sysname == "Darwin" else peak * 1024
