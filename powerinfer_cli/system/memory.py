"""How much main memory there is, how much this process has used at most, what it can give back, and what it locks."""

import contextlib
import ctypes
import gc
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from powerinfer_cli.system import macos, windows
from powerinfer_cli.system.which import LINUX, MACOS, WINDOWS

__all__ = [
    "MORE_LOCKED",
    "available_memory",
    "drop_pages",
    "forget_code",
    "lock_memory",
    "one_heap",
    "peak_memory",
    "private_pages",
    "resident_memory",
    "return_memory",
]

MORE_LOCKED = "" if WINDOWS else " (see `ulimit -l`)"  # how a user lets more be locked
_ARENA_MAX = -8  # glibc's number for it
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")

# Where control groups say what a group may have, has, and could drop at once: version 2, version 1.
_V2 = "memory.max", "memory.current", ("inactive_file", "active_file")
_V1 = "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")


def available_memory() -> int:
    """Bytes that can be allocated without swapping: MemAvailable, or physical memory where nobody says; no more than
    the process's control groups (a container's, say) leave it.
    """
    if WINDOWS:
        return windows.memory_left()
    if MACOS and (left := macos.memory_left()) is not None:
        return left
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
    if WINDOWS:
        return windows.process_memory(None)[1]
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if MACOS else peak * 1024


def resident_memory(process: int | None = None) -> int | None:
    """Resident set of a process now, this one without a number, in bytes; None where the system does not say."""
    if MACOS:
        return macos.process_memory(process)
    try:
        if WINDOWS:
            return windows.process_memory(process)[0]
        return int((_PROC / str(process or "self") / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None  # another system, or no such process


def forget_code(library: str) -> None:
    """Drop the pages of a library's code that have been used so far. They are the file's, and come back from it.

    Linux alone has a list of them; elsewhere they stay until the system needs their room.
    """
    if not LINUX:
        return
    with contextlib.suppress(OSError):  # no /proc
        libc = ctypes.CDLL(None)
        # Of bytes: other files here may have any name. Its own line feed is an escape there. Emulators list none.
        for line in filter(None, (_PROC / "self" / "maps").read_bytes().split(b"\n")):
            place, permissions, *_, name = line.split(maxsplit=5)
            if permissions == b"r-xp" and library.encode() in name:  # what is written to at load time is not the file's
                begin, end = (int(text, 16) for text in place.split(b"-"))
                libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def one_heap() -> None:
    """For threads that begin later. Linux' C library would give each its own, which keeps what was once needed."""
    if not LINUX:
        return
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def return_memory() -> None:
    """Give the system back what is not used any more, and would be kept for later: after something large.

    Takes some milliseconds. Python keeps each megabyte in which anything is alive, so cycles are looked for first; and
    the names in its cache of attributes go, many of which C code made for one look-up.
    """
    getattr(sys, "_clear_internal_caches", sys._clear_type_cache)()
    gc.collect()
    if MACOS:
        macos.return_memory()
    if not LINUX:
        return  # Windows' heap keeps nothing large back
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def drop_pages(file: mmap.mmap, begin: int, n_bytes: int, address: int) -> None:
    """Let the system have back the memory of bytes of a mapped file, from a page's first on; reading gets them anew.

    address: of the map's first byte.
    """
    if WINDOWS:
        windows.drop_pages(address + begin, n_bytes)
        return
    with contextlib.suppress(OSError):  # as it is with pages that are locked into memory
        file.madvise(mmap.MADV_DONTNEED, begin, n_bytes)


def private_pages(n_bytes: int, *, huge: bool) -> mmap.mmap:
    """Zeros. huge: on large pages, where the system gives them when asked. Raises OSError.

    Pages that are never written to cost nothing, but for Windows, which counts them as promised.
    """
    if WINDOWS:
        return mmap.mmap(-1, n_bytes)
    pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    wish = "MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE"
    if hasattr(mmap, wish):
        with contextlib.suppress(OSError):
            pages.madvise(getattr(mmap, wish))
    return pages


def lock_memory(address: int, n_bytes: int) -> bool:
    """Keep memory from being paged out. False: the system does not let us."""
    if WINDOWS:
        return windows.lock(address, n_bytes)
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mlock"):
        return False
    page = os.sysconf("SC_PAGE_SIZE")
    start = address // page * page
    return bool(libc.mlock(ctypes.c_void_p(start), ctypes.c_size_t(address + n_bytes - start)) == 0)
