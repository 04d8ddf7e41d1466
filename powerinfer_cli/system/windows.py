"""Windows' own calls, of kernel32, as plain functions. Not run on Windows yet: tests give it a stand-in."""

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

__all__ = [
    "allow_cores",
    "core_masks",
    "drop_pages",
    "has_feature",
    "ignore_interrupts",
    "limit_memory",
    "lock",
    "memory_left",
    "native_calls",
    "open_shared",
    "process_age",
    "process_memory",
    "processor_name",
    "take_sequences",
    "usable_mask",
]

_EXTENDED_LIMITS, _MEMORY_FLAG = 9, 0x100  # of a job: the structure's number; that its process_memory counts
_READ, _WRITE, _SHARED = 0x80000000, 0x40000000, 0x7  # what is done with a file, and that others may do all, too
_EXISTING, _CREATE, _ORDINARY, _NO_HANDLE = 3, 4, 0x80, ctypes.c_void_p(-1).value
_NATIVE = (
    *("CreateSemaphoreW", "ReleaseSemaphore", "WaitForSingleObject"),
    *("QueryPerformanceCounter", "QueryPerformanceFrequency"),
)
_SEQUENCES = 0x4  # ENABLE_VIRTUAL_TERMINAL_PROCESSING
_QUERY_LIMITED = 0x1000  # the right to ask what a process uses
_PROCESS_TIMES_EPOCH = 11644473600  # seconds from 1601, where Windows' times begin, to 1970


class _MemoryStatus(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("physical", ctypes.c_uint64),
        ("physical_left", ctypes.c_uint64),
        ("committable", ctypes.c_uint64),
        ("committable_left", ctypes.c_uint64),
        ("virtual", ctypes.c_uint64),
        ("virtual_left", ctypes.c_uint64),
        ("extended_left", ctypes.c_uint64),
    )


class _ProcessMemory(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        ("peak", ctypes.c_size_t),
        ("now", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 6),  # pools and the page file
    )


class _Cores(ctypes.Structure):
    """SYSTEM_LOGICAL_PROCESSOR_INFORMATION."""

    _fields_ = (("mask", ctypes.c_size_t), ("relation", ctypes.c_int), ("more", ctypes.c_uint64 * 2))


class _JobLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("times", ctypes.c_int64 * 2),
        ("flags", ctypes.c_uint32),
        ("working_set", ctypes.c_size_t * 2),
        ("processes", ctypes.c_uint32),
        ("cores", ctypes.c_size_t),
        ("priority", ctypes.c_uint32 * 2),
        ("transfers", ctypes.c_uint64 * 6),
        ("process_memory", ctypes.c_size_t),
        ("more", ctypes.c_size_t * 3),
    )


@cache
def kernel32() -> Any:
    library = vars(ctypes)["WinDLL"]("kernel32", use_last_error=True)
    for name in ("GetCurrentProcess", "GetCurrentThread", "OpenProcess", "CreateFileW", "CreateJobObjectW"):
        getattr(library, name).restype = ctypes.c_void_p
    library.SetThreadAffinityMask.restype = ctypes.c_size_t
    return library


def native_calls() -> dict[str, int]:
    """What compiled kernels call, with its address."""
    found = ((name, ctypes.cast(getattr(kernel32(), name), ctypes.c_void_p).value) for name in _NATIVE)
    return {name: address for name, address in found if address is not None}


def memory_left() -> int:
    """Bytes that can be allocated: free physical memory, and no more than may be committed. Raises OSError."""
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if not kernel32().GlobalMemoryStatusEx(ctypes.byref(status)):
        raise OSError("GlobalMemoryStatusEx")
    return min(int(status.physical_left), int(status.committable_left))


def process_memory(process: int | None) -> tuple[int, int]:
    """Bytes of physical memory that a process, this one without a number, has now, and had at most. Raises OSError."""
    found = _ProcessMemory(size=ctypes.sizeof(_ProcessMemory))
    with _opened(process) as handle:
        if not kernel32().K32GetProcessMemoryInfo(ctypes.c_void_p(handle), ctypes.byref(found), found.size):
            raise OSError("K32GetProcessMemoryInfo")
    return int(found.now), int(found.peak)


@contextmanager
def _opened(process: int | None) -> Iterator[Any]:
    """A handle. Raises OSError: there is no such process."""
    if process is None:
        yield kernel32().GetCurrentProcess()
        return
    handle = kernel32().OpenProcess(_QUERY_LIMITED, False, process)
    if not handle:
        raise ProcessLookupError(f"process {process}")
    try:
        yield handle
    finally:
        kernel32().CloseHandle(ctypes.c_void_p(handle))


def lock(address: int, n_bytes: int) -> bool:
    """Keep pages from being paged out. No more may be locked than the smallest working set, so that grows first."""
    process = ctypes.c_void_p(kernel32().GetCurrentProcess())
    least, most = ctypes.c_size_t(), ctypes.c_size_t()
    if not kernel32().GetProcessWorkingSetSize(process, ctypes.byref(least), ctypes.byref(most)):
        return False
    sizes = ctypes.c_size_t(least.value + n_bytes), ctypes.c_size_t(most.value + n_bytes)
    if not kernel32().SetProcessWorkingSetSize(process, *sizes):
        return False
    return bool(kernel32().VirtualLock(ctypes.c_void_p(address), ctypes.c_size_t(n_bytes)))


def limit_memory(n_bytes: int) -> None:
    """Let this process have no more: a job of its own says so. Raises OSError."""
    job = ctypes.c_void_p(kernel32().CreateJobObjectW(None, None))
    limits = _JobLimits(flags=_MEMORY_FLAG, process_memory=n_bytes)
    size = ctypes.c_uint32(ctypes.sizeof(limits))
    process = ctypes.c_void_p(kernel32().GetCurrentProcess())
    told = job and kernel32().SetInformationJobObject(job, _EXTENDED_LIMITS, ctypes.byref(limits), size)
    if not told or not kernel32().AssignProcessToJobObject(job, process):
        raise OSError("no job that limits memory")


def open_shared(path: str, flags: int) -> int:
    """As `os.open`, of an ordinary file; others may rename and replace it meanwhile. Raises OSError."""
    access = _READ | _WRITE if flags & (os.O_RDWR | os.O_WRONLY) else _READ
    how = _CREATE if flags & os.O_CREAT else _EXISTING
    handle = kernel32().CreateFileW(ctypes.c_wchar_p(path), access, _SHARED, None, how, _ORDINARY, None)
    if handle == _NO_HANDLE:
        raise vars(ctypes)["WinError"](vars(ctypes)["get_last_error"]())
    return int(import_module("msvcrt").open_osfhandle(handle, flags))


def take_sequences(descriptor: int) -> bool:
    """Have a console understand ANSI's sequences; whether it does."""
    handle, mode = ctypes.c_void_p(import_module("msvcrt").get_osfhandle(descriptor)), ctypes.c_uint32()
    if not kernel32().GetConsoleMode(handle, ctypes.byref(mode)):
        return False
    return bool(mode.value & _SEQUENCES or kernel32().SetConsoleMode(handle, ctypes.c_uint32(mode.value | _SEQUENCES)))


def ignore_interrupts(ignored: bool) -> None:
    """Whether Ctrl-C passes by this process, and those that it starts meanwhile."""
    kernel32().SetConsoleCtrlHandler(None, ctypes.c_int(ignored))


def drop_pages(address: int, n_bytes: int) -> None:
    """Take pages out of the working set: what unlocking does with pages that are not locked."""
    kernel32().VirtualUnlock(ctypes.c_void_p(address), ctypes.c_size_t(n_bytes))


def usable_mask() -> int:
    """A bit for each logical core that this process may use, of its group of 64; 0 where Windows does not say."""
    process, machine = ctypes.c_size_t(), ctypes.c_size_t()
    handle = ctypes.c_void_p(kernel32().GetCurrentProcess())
    told = kernel32().GetProcessAffinityMask(handle, ctypes.byref(process), ctypes.byref(machine))
    return int(process.value) if told else 0


def allow_cores(mask: int) -> None:
    """Keep the calling thread on the cores of a mask. Raises OSError."""
    thread = ctypes.c_void_p(kernel32().GetCurrentThread())
    if not kernel32().SetThreadAffinityMask(thread, ctypes.c_size_t(mask)):
        raise OSError("SetThreadAffinityMask")


def core_masks() -> list[int]:
    """For each physical core, a mask of its logical ones; none where Windows does not say."""
    size = ctypes.c_uint32()
    kernel32().GetLogicalProcessorInformation(None, ctypes.byref(size))
    found = (_Cores * (size.value // ctypes.sizeof(_Cores)))()
    if not len(found) or not kernel32().GetLogicalProcessorInformation(found, ctypes.byref(size)):
        return []
    return [int(one.mask) for one in found if one.relation == 0]


def has_feature(number: int) -> bool:
    """Of the CPU, by Windows' number for it (PF_...)."""
    return bool(kernel32().IsProcessorFeaturePresent(number))


def process_age() -> float:
    """Seconds since this process began. Raises OSError."""
    times = [ctypes.c_uint64() for _ in range(4)]  # begun, ended, in the system, in the program: units of 100 ns
    handle = ctypes.c_void_p(kernel32().GetCurrentProcess())
    if not kernel32().GetProcessTimes(handle, *map(ctypes.byref, times)):
        raise OSError("GetProcessTimes")
    return time.time() - (times[0].value / 1e7 - _PROCESS_TIMES_EPOCH)


def processor_name() -> str | None:
    """As the registry has it."""
    registry = import_module("winreg")
    try:
        with registry.OpenKey(registry.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
            return str(registry.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    except OSError:
        return None
