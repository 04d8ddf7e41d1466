"""macOS' own calls, of libSystem, as plain functions. Not run on macOS yet: tests give it a stand-in."""

import ctypes
import os
from functools import cache
from typing import Any

__all__ = ["memory_left", "process_memory", "return_memory", "sysctl_number", "sysctl_text"]

_VM_INFO, _VM_INFO_COUNT = 4, 38  # HOST_VM_INFO64, and its size in integers of 32 bits
_TASK_INFO, _TASK_INFO_BYTES = 4, 96  # PROC_PIDTASKINFO: virtual and resident size, 64 bits each, come first


@cache
def system() -> Any:
    return ctypes.CDLL(None)


def sysctl_text(name: str) -> str | None:
    """A setting in words, as machdep.cpu.brand_string; None where it is not there."""
    found, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    failed = system().sysctlbyname(name.encode(), found, ctypes.byref(size), None, ctypes.c_size_t(0))
    return None if failed else found.value.decode(errors="replace")


def sysctl_number(name: str) -> int | None:
    """A number of 32 or 64 bits, as hw.physicalcpu; None where it is not there."""
    found, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    failed = system().sysctlbyname(name.encode(), ctypes.byref(found), ctypes.byref(size), None, ctypes.c_size_t(0))
    return None if failed else int(found.value)


def memory_left() -> int | None:
    """Bytes of pages that are free, or can be made so at once; None where the system does not say."""
    counts, n = (ctypes.c_uint32 * _VM_INFO_COUNT)(), ctypes.c_uint32(_VM_INFO_COUNT)
    if system().host_statistics64(system().mach_host_self(), _VM_INFO, counts, ctypes.byref(n)):
        return None
    free, _active, inactive = counts[:3]
    return (free + inactive) * os.sysconf("SC_PAGE_SIZE")


def process_memory(process: int | None) -> int | None:
    """Bytes of physical memory that a process, this one without a number, has now; None where it is not there."""
    found = (ctypes.c_uint64 * (_TASK_INFO_BYTES // 8))()
    asked = (process or os.getpid(), _TASK_INFO, ctypes.c_uint64(0), found, _TASK_INFO_BYTES)
    return int(found[1]) if system().proc_pidinfo(*asked) == _TASK_INFO_BYTES else None


def return_memory() -> None:
    """Let the allocator give back what is not used."""
    system().malloc_zone_pressure_relief(None, ctypes.c_size_t(0))
