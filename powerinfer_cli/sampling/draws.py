"""Random numbers: std::mt19937 with libstdc++'s uniform distributions, so that llama.cpp's seeds draw the same here."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from powerinfer_cli.sampling.candidates import Floats

RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's unsigned -1
_WORDS = 624  # of the twister's state


def resolve_seed(seed: int) -> int:
    """The seed to use: `seed` itself, or a random one for -1."""
    return secrets.randbelow(RANDOM_SEED) if seed in (-1, RANDOM_SEED) else seed


class Draws:
    """A stream of uniform numbers in [0, 1)."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.MT19937()
        self._bits.state = {"bit_generator": "MT19937", "state": {"key": _initial_key(seed), "pos": _WORDS}}

    def double(self) -> float:
        low, high = (int(word) for word in self._bits.random_raw(2))
        return min((low + (high << 32)) / 2.0**64, math.nextafter(1.0, 0.0))

    def single(self) -> float:
        return min(float(np.float32(int(self._bits.random_raw())) / np.float32(2**32)), 1.0 - 2.0**-24)

    @contextmanager
    def rewound(self) -> Iterator[None]:
        """Draws made inside are made again afterwards."""
        state = self._bits.state
        try:
            yield
        finally:
            self._bits.state = state


def _initial_key(seed: int) -> NDArray[np.uint32]:
    """The twister's state as its authors and C++ seed it; NumPy's own constructor would hash the seed first."""
    key = [seed]
    for i in range(1, _WORDS):
        key.append((1812433253 * (key[-1] ^ (key[-1] >> 30)) + i) & 0xFFFFFFFF)
    return np.array(key, np.uint32)


def pick(probs: Floats, uniform: float) -> int:
    """The index that `uniform` in [0, 1) falls on; never one of probability 0."""
    reached = np.cumsum(probs, dtype=np.float64)
    # Even the largest uniform, 1 - 2**-53, rounds the product to less than the sum, so the index is never past the end.
    return int(np.searchsorted(reached, uniform * reached[-1], side="right"))
