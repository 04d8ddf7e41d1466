"""How much main memory there is, how much this process has used at most, and what it can give back."""

import contextlib
import ctypes
import gc
import mmap
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_memory", "forget_code", "one_heap", "peak_memory", "resident_memory", "return_memory"]

_ARENA_MAX = -8  # glibc's number for it
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")

# Where control groups say what a group may have, has, and could drop at once: version 2, version 1.
_V2 = "memory.max", "memory.current", ("inactive_file", "active_file")
_V1 = "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")


def available_memory() -> int:
    """Bytes that can be allocated without swapping: MemAvailable, or physical memory where /proc does not say; no more
    than the process's control groups (a container's, say) leave it.
    """
    return min(_free_in_machine(), *_free_in_groups())


def _free_in_machine() -> int:
    try:
        for line in (_PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_in_groups() -> Iterator[int]:
    """What each group that has a limit leaves, from the process's own up to the topmost; the machine's in any case.

    In a container the path may be the host's, of which only the end, or nothing, is to be seen here.
    """
    yield _free_in_machine()
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, names, path = line.split(":", 2)
        if number != "0" and "memory" not in names.split(","):
            continue
        root, files = (_CGROUPS, _V2) if number == "0" else (_CGROUPS / "memory", _V1)
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):
                yield _free_in(root / folder, *files)


def _free_in(folder: Path, limit: str, used: str, droppable: tuple[str, ...]) -> int:
    """Raises OSError or ValueError: there is no limit ("max"), or no such group."""
    most = int((folder / limit).read_text())
    found = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    cached = sum(int(found.get(name, 0)) for name in droppable)
    return max(0, most - int((folder / used).read_text()) + cached)


def peak_memory() -> int:
    """Largest resident set of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if os.uname().sysname == "Darwin" else peak * 1024


def resident_memory(process: int | None = None) -> int | None:
    """Resident set of a process now, this one without a number, in bytes; None where the system does not say."""
    try:
        return int((_PROC / str(process or "self") / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None  # not Linux


def forget_code(library: str) -> None:
    """Drop the pages of a library's code that have been used so far. They are the file's, and come back from it."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    with contextlib.suppress(OSError):  # not Linux
        libc = ctypes.CDLL(None)
        # Of bytes: other files here may have any name. A name's own line feed is an escape there.
        for line in (_PROC / "self" / "maps").read_bytes().removesuffix(b"\n").split(b"\n"):
            place, permissions, *_, name = line.split(maxsplit=5)
            if permissions == b"r-xp" and library.encode() in name:  # what is written to at load time is not the file's
                begin, end = (int(text, 16) for text in place.split(b"-"))
                libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def one_heap() -> None:
    """For threads that begin later. The C library would give each its own, which keeps what was once needed."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def return_memory() -> None:
    """Give the system back what is not used any more, and would be kept for later: after something large.

    Takes some milliseconds. Python keeps each megabyte in which anything is alive, so cycles are looked for first; and
    the names in its cache of attributes go, many of which C code made for one look-up.
    """
    getattr(sys, "_clear_internal_caches", sys._clear_type_cache)()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
