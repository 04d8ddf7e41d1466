"""What a process allows itself. Few imports: it is for small processes that start often.

Linux limits all of it. macOS knows no limit of memory that its own libraries would not pass, so a thread looks at what
is used; Windows counts no processor time, so the parent must look at the clock. (Neither was run there yet.)
"""

import os
import signal
import threading
import time

from powerinfer_cli.system.which import MACOS, WINDOWS

__all__ = ["TIMED", "forbid_files", "limit_memory", "limit_time", "memory_now"]

TIMED = not WINDOWS
"""Whether `limit_time` does anything."""
_LOOK_S = 0.02


def limit_memory(n_bytes: int) -> None:
    """Asking for more raises MemoryError; on macOS it ends the process with code 1, soon."""
    if WINDOWS:
        from powerinfer_cli.system import windows

        windows.limit_memory(n_bytes)
    elif MACOS:
        threading.Thread(target=_watch_memory, args=(n_bytes,), daemon=True).start()
    else:
        import resource

        _limit(resource.RLIMIT_AS, n_bytes)


def _watch_memory(n_bytes: int) -> None:
    while memory_now() <= n_bytes:
        time.sleep(_LOOK_S)
    os._exit(1)


def forbid_files() -> None:
    """Nothing is written to files, no dump of memory either. Windows has no such limit."""
    if WINDOWS:
        return
    import resource

    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(which: int, most: int) -> None:
    import resource

    _, hard = resource.getrlimit(which)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (most, most))


def limit_time(seconds: float) -> None:
    """From now on so much processor time ends the process, by SIGPROF; 0: no more. Windows has no such limit."""
    if TIMED:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # nobody handles the signal, so it works within C, too


def memory_now() -> int:
    """Bytes of physical memory that this process has; on macOS the most that it had, which costs no more to ask."""
    if WINDOWS:
        from powerinfer_cli.system import windows

        return windows.process_memory(None)[0]
    import resource

    if MACOS:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123  # a file as any other costs
        return int(file.read().split()[1]) * resource.getpagesize()
