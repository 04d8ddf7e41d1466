"""When this process began, and what others like it are started as."""

import os
import sys
import time
from pathlib import Path

from powerinfer_cli.system import windows
from powerinfer_cli.system.which import LINUX, WINDOWS

__all__ = ["had_children", "python_program", "seconds_since_start"]


def had_children() -> bool:
    """Whether this process has waited for others; on Windows, where none becomes another, it has not."""
    if WINDOWS:
        return False
    import resource

    return any(resource.getrusage(resource.RUSAGE_CHILDREN))


def python_program() -> tuple[str, dict[str, str]]:
    """This Python, as a child whose number is its own; and variables by which it finds what is installed here.

    In Windows' virtual environments `sys.executable` starts the real one as a child of its own.
    """
    real = str(vars(sys).get("_base_executable") or sys.executable)
    if WINDOWS and real != sys.executable:
        return real, {"__PYVENV_LAUNCHER__": sys.executable}
    return sys.executable, {}


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
