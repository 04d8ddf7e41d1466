"""Scales by weighted least squares, in plain NumPy: the twin of what is compiled (kernels.cpu.encoding.fitting).

A group of numbers x is stored as d q + m with whole q from `low` to `top`. For given quants the best d and m are a
least-squares problem of two unknowns; for given d and m the best quants are the nearest. From several starts both are
solved, the best of them a few times in turn, and the best pair that was met is kept.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["LEAST", "REFITS", "SAME", "Choice", "Fit", "Grid", "Nearest", "PlainFit", "Scales", "inverse"]

Floats = npt.NDArray[np.float32]
REFITS = 3
LEAST = 1e-30  # what is divided by is larger
SAME = np.float32(1e-6)  # quants whose variance is less than this share of their square's mean are all the same


@dataclass(frozen=True)
class Grid:
    """Whole numbers from `low` to `top`, or of them only `levels`, ascending. minima: groups have an m; below: it is at
    most 0.
    """

    low: int
    top: int
    minima: bool = False
    below: bool = False
    levels: tuple[int, ...] = ()

    def nearest(self, numbers: Floats) -> Floats:
        """Of them that which is nearest to each number."""
        if self.levels:
            return np.array(self.levels, np.float32)[self.places(numbers)]
        return np.clip(np.rint(numbers), self.low, self.top)

    def places(self, numbers: Floats) -> npt.NDArray[np.uint8]:
        """How many of them are below the nearest."""
        if self.levels:
            return np.searchsorted(self.middles, numbers).astype(np.uint8)
        return (self.nearest(numbers) - self.low).astype(np.uint8)

    @cached_property
    def middles(self) -> Floats:
        """Between two levels each."""
        levels = np.array(self.levels, np.float32)
        return (levels[1:] + levels[:-1]) * np.float32(0.5)

    @cached_property
    def starts(self) -> Floats:
        """[S, 2]. Where there are minima: how many steps a group's range has, and whether they are counted from its
        least number (0) or its largest (1). Else: what its number of the largest size becomes, and 0.
        """
        if self.minima:
            return _pairs([self.top + more for more in _AROUND], (0, 1))
        wide = 8.0 if self.levels else max(1.0, self.top / 16)
        return _pairs([end + wide * more for end in (self.low, self.top) for more in _AROUND], (0,))


_AROUND = (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9)


def _pairs(starts: list[float], anchors: tuple[int, ...]) -> Floats:
    return np.array([(start, anchor) for start in starts for anchor in anchors], np.float32)


@dataclass(frozen=True)
class Scales:
    """d and m, [G] each."""

    d: Floats
    m: Floats


@dataclass(frozen=True)
class Choice:
    """Of the candidates for each group the best: its number [G], its squared error [G], and of its quants q the
    weighted sums of q, q q and q x, [3, G].
    """

    number: npt.NDArray[np.int64]
    error: Floats
    sums: Floats


@dataclass(frozen=True)
class Nearest:
    """Of a table's entries q, those nearest to groups of numbers x at several scales: their numbers, and the weighted
    sums of q x and of q q, [G, S] each.
    """

    number: npt.NDArray[np.int64]
    qx: Floats
    qq: Floats


class Fit(Protocol):
    """Fits groups, each for itself: x and weights [G, n]."""

    def search(self, x: Floats, weights: Floats, grid: Grid) -> Scales:
        """The best scales that are found."""

    def choose(self, x: Floats, weights: Floats, grid: Grid, d: Floats, m: Floats) -> Choice:
        """Among d and m [C, G]; of equal ones the first."""

    def places(self, x: Floats, d: Floats, m: Floats, grid: Grid) -> npt.NDArray[np.uint8]:
        """The nearest quants with scales d and m [G], as `Grid.places` counts them, [G, n]."""

    def nearest(self, x: Floats, weights: Floats, table: Floats, inverses: Floats) -> Nearest:
        """Among the entries [E, n] of a table, with 1 / scales [G, S]; of equal ones the first."""


class PlainFit:
    """The twin."""

    def search(self, x: Floats, weights: Floats, grid: Grid) -> Scales:
        x, weights = np.ascontiguousarray(x.T), np.ascontiguousarray(weights.T)
        least, most = x.min(0), x.max(0)
        peak = np.where(most >= -least, most, least)
        if grid.below:
            least = np.minimum(least, 0)
        best = _Best(x, weights, grid)
        for start, anchor in grid.starts:
            if grid.minima:
                by_d = start * inverse(most - least)
                low = most - np.float32(grid.top) * inverse(by_d) if anchor else least
                best.meet(by_d, np.minimum(low, 0) if grid.below else low)
            else:
                best.meet(start * inverse(peak), np.zeros_like(peak))
        for _ in range(REFITS):
            best.meet(inverse(best.d), best.m)
        return Scales(best.d, best.m)

    def choose(self, x: Floats, weights: Floats, grid: Grid, d: Floats, m: Floats) -> Choice:
        x, weights = np.ascontiguousarray(x.T), np.ascontiguousarray(weights.T)
        groups = x.shape[1]
        found, sums = np.zeros(groups, np.int64), np.zeros((3, groups), np.float32)
        error = np.full(groups, np.inf, np.float32)
        for number, (scale, low) in enumerate(zip(d, m, strict=True)):
            q = grid.nearest((x - low) * inverse(scale))
            rest = scale * q + low - x
            here = (weights * rest * rest).sum(0)
            better = here < error
            found[better], error[better] = number, here[better]
            sums[:, better] = _sums(x, weights, q)[:, better]
        return Choice(found, error, sums)

    def places(self, x: Floats, d: Floats, m: Floats, grid: Grid) -> npt.NDArray[np.uint8]:
        return grid.places((x - m[:, None]) * inverse(d)[:, None])

    def nearest(self, x: Floats, weights: Floats, table: Floats, inverses: Floats) -> Nearest:
        qx: Floats = np.matmul(weights * x, table.T, dtype=np.float32)
        qq: Floats = np.matmul(weights, np.square(table).T, dtype=np.float32)
        number = np.stack([(qq - 2 * one[:, None] * qx).argmin(1) for one in inverses.T], 1)
        return Nearest(number, np.take_along_axis(qx, number, 1), np.take_along_axis(qq, number, 1))


class _Best:
    """The best of what was met. gain: by how much it makes the squared error less than that of zeros."""

    def __init__(self, x: Floats, weights: Floats, grid: Grid) -> None:
        self.x, self.weights, self.grid = x, weights, grid
        self.total, self.total_x = weights.sum(0), (weights * x).sum(0)
        self.gain, self.d, self.m = (np.zeros(x.shape[1], np.float32) for _ in range(3))

    def meet(self, by_d: Floats, low: Floats) -> None:
        """Of the quants that these scales give, the best scales."""
        q1, q2, qx = _sums(self.x, self.weights, self.grid.nearest((self.x - low) * by_d))
        d, m = qx * inverse(q2), np.zeros_like(qx)
        if self.grid.minima:
            both = self.total * q2 - q1 * q1
            by_both = np.where(both > SAME * self.total * q2, inverse(both), 0)
            m = (q2 * self.total_x - q1 * qx) * by_both
            m = np.where(q2 == 0, self.total_x * inverse(self.total), m)
            m = np.minimum(m, 0) if self.grid.below else m
            d = np.where((by_both == 0) | (m == 0), d, (self.total * qx - q1 * self.total_x) * by_both)
        gain = 2 * (d * qx + m * self.total_x) - (d * d * q2 + 2 * d * m * q1 + m * m * self.total)
        better = gain > self.gain
        self.gain[better], self.d[better], self.m[better] = gain[better], d[better], m[better]


def inverse(d: Floats) -> Floats:
    """1 / d, and 0 of 0."""
    there = np.abs(d) > LEAST
    return np.where(there, 1 / np.where(there, d, 1), 0).astype(np.float32)


def _sums(x: Floats, weights: Floats, q: Floats) -> Floats:
    weighted = weights * q
    return np.stack([weighted.sum(0), (weighted * q).sum(0), (weighted * x).sum(0)])
