"""How fast this machine's memory is, measured by reading it."""

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.reading import sum_words
from powerinfer_cli.system.cores import pin_thread

__all__ = ["measure_bandwidth"]

BUFFER = 512 << 20  # bytes: larger than any cache
REPEATS = 5

Words = npt.NDArray[np.int64]


def _total(words: Words) -> int:
    return int(sum_words.call(words.ctypes.data, len(words)))


def measure_bandwidth(threads: int, size: int = BUFFER, cores: Sequence[frozenset[int]] = ()) -> float:
    """Bytes a second that `threads` threads read together, each a part of a buffer of its own; the best of several.

    `cores`: where each may run, in turn; empty: where the caller may.
    """
    numbers = itertools.count()

    def pin() -> None:
        if cores:
            pin_thread(cores[next(numbers) % len(cores)])

    words = np.ones(max(size // 8, threads), np.int64)
    parts = np.array_split(words, threads)
    best = float("inf")
    with ThreadPoolExecutor(threads, initializer=pin) as pool:
        for _ in range(REPEATS):
            start = time.perf_counter()
            total = sum(pool.map(_total, parts))
            best = min(best, time.perf_counter() - start)
            assert total == words.size
    return words.nbytes / best
