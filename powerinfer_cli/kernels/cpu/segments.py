"""Whose tokens a batch's are: the state, an int64 array that every operation can read.

It holds how many tokens there are, how many segments they form, and for each segment (tokens that continue one
sequence) five numbers: its first token's place in the batch, how many tokens, how many the sequence had before, the
address of the sequence's row of pages, and the sequence's number. A row of pages is int32: position p lies in cell
row[p // PAGE] * PAGE + p % PAGE of the KV cache.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import PAGE
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS
from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import address_of, i32, i64

__all__ = [
    "COUNT",
    "N_SEGMENTS",
    "PAST",
    "SEQUENCE",
    "START",
    "State",
    "cell_of",
    "make_state",
    "segment_at",
    "segment_of",
]

Pages = npt.NDArray[np.int32]

N_SEGMENTS, _FIRST = N_TOKENS + 1, N_TOKENS + 2
START, COUNT, PAST, TABLE, SEQUENCE, _WIDTH = range(6)  # of a segment


class State:
    """`numbers`: what operations are given. They point into the rows of pages, which live as long as this does."""

    def __init__(self, most: int) -> None:
        """With room for so many segments."""
        self.numbers = np.zeros(_FIRST + most * _WIDTH, np.int64)
        self._rows: list[Pages] = []

    def fill(self, segments: Sequence[tuple[int, int, Pages]], sequences: Sequence[int] = ()) -> None:
        """The next batch: (tokens, tokens before, row of pages) of each segment, in the batch's order. sequences: their
        numbers, by which states are found.
        """
        self._rows = [row for _, _, row in segments]
        self.numbers[N_SEGMENTS], start = len(segments), 0
        for i, (count, past, row) in enumerate(segments):
            at = _FIRST + i * _WIDTH
            sequence = sequences[i] if sequences else 0
            self.numbers[at : at + SEQUENCE + 1] = start, count, past, row.ctypes.data, sequence
            start += count
        self.numbers[N_TOKENS] = start


def make_state(n_tokens: int, n_past: int, row: Pages) -> State:
    """Of one segment."""
    state = State(1)
    state.fill([(n_tokens, n_past, row)])
    return state


@helper
def segment_at(state, i):
    """The i-th segment."""
    return i64(address_of(state) + (_FIRST + i * _WIDTH) * 8)


@helper
def segment_of(state, t):
    """The segment of a batch's token."""
    segment = segment_at(state, 0)
    for i in range(1, state[N_SEGMENTS]):
        following = segment_at(state, i)
        if following[START] <= t:
            segment = following
    return segment


@helper
def cell_of(segment, position):
    """Where a position of the segment's sequence lies in the cache."""
    return np.int64(i32(segment[TABLE])[position // PAGE]) * PAGE + position % PAGE
