"""Which cores there are for this process."""

import os

__all__ = ["usable_cores"]


def usable_cores() -> frozenset[int]:
    """The logical cores this process may run on: fewer than the machine has where a container or `taskset` says so."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))
