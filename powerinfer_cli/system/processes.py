"""When this process began."""

import os
import time
from pathlib import Path

from powerinfer_cli.system import windows
from powerinfer_cli.system.which import LINUX, WINDOWS

__all__ = ["had_children", "seconds_since_start"]


def had_children() -> bool:
    """Whether this process has waited for others; on Windows, where none becomes another, it has not."""
    if WINDOWS:
        return False
    import resource

    return any(resource.getrusage(resource.RUSAGE_CHILDREN))


def seconds_since_start() -> float | None:
    """By the clock; None where the system does not tell, as macOS does not."""
    try:
        if WINDOWS:
            return windows.process_age()
        if not LINUX:
            return None
        fields = Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # the 22nd field: ticks since the system's start
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, ValueError, IndexError, AttributeError):
        return None
