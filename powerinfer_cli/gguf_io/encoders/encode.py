"""float32 to quantised blocks with a search for scales that make the squared error small.

What `quantize` writes is rounded as the `gguf` package rounds. Here each group's scale (and minimum) is fitted to its
numbers, by a `Fit`; scales of super-blocks are whole multiples of one that is fitted as well.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from ..encoder import LARGEST_HALF, quantize
from ..failure import GGUFError
from ..types import BLOCK, GGMLType
from .codebook_blocks import BLOCKS
from .codebooks import CODEBOOKS, coded
from .fitting import LEAST, Choice, Fit, PlainFit, Scales
from .layouts import LAYOUTS, Layout

__all__ = ["BY_GRID", "SEARCHED", "encode"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
NUMBERS_AT_ONCE = 1 << 16  # so many that what is made of them stays in the processor's cache
ROUNDS = 2  # in which a super-block's scales and their multiples are fitted in turn
LEAST_IMPORTANCE = np.float32(1e-6)  # of the mean; else a group that does not matter would not be fitted at all
BY_GRID = frozenset(LAYOUTS)
SEARCHED = BY_GRID | frozenset(CODEBOOKS)


def encode(
    values: Floats, kind: GGMLType, importance: Floats | None = None, *, fit: Fit | None = None, threads: int = 1
) -> Bytes:
    """Numbers [n_rows, n_cols] to bytes [n_rows, row_bytes], the same with any number of threads.

    importance: how much a column's squared errors matter, [n_cols], from 0 on. fit: without, plain NumPy; the compiled
    one is in kernels.cpu.encoding.fitting. Types that are not in SEARCHED are written as `quantize` writes them.
    Raises GGUFError where the type, a number or an importance does not allow it.
    """
    if kind not in SEARCHED or values.size == 0:
        return quantize(values, kind)
    block_size, block_bytes = BLOCK[kind]
    n_rows, n_cols = values.shape
    if n_cols % block_size:
        raise GGUFError(f"rows of {n_cols} cannot be {kind.name}: they are no whole blocks of {block_size}")
    weights = _weights(importance, n_cols)
    out = np.empty((n_rows, n_cols // block_size * block_bytes), np.uint8)
    step = max(1, NUMBERS_AT_ONCE // n_cols)
    write = partial(_write, values, kind, weights, fit or PlainFit(), out)
    parts = [slice(begin, begin + step) for begin in range(0, n_rows, step)]
    if threads == 1:
        for part in parts:
            write(part)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(write, part) for part in parts]:
                done.result()
    return out


def _weights(importance: Floats | None, n_cols: int) -> Floats:
    """Around 1."""
    if importance is None:
        return np.ones(n_cols, np.float32)
    given = np.asarray(importance, np.float64)
    if given.shape != (n_cols,):
        raise GGUFError(f"there is importance of shape {given.shape} for {n_cols} columns")
    if not (np.isfinite(given) & (given >= 0)).all():
        raise GGUFError("importance of columns must be finite, from 0 on")
    mean = given.mean()
    return np.maximum(given / mean, LEAST_IMPORTANCE).astype(np.float32) if mean > 0 else np.ones(n_cols, np.float32)


def _write(values: Floats, kind: GGMLType, weights: Floats, fit: Fit, out: Bytes, rows: slice) -> None:
    x = np.ascontiguousarray(values[rows], np.float32)
    if not (np.abs(x) <= LARGEST_HALF).all():
        raise GGUFError(f"numbers beyond {LARGEST_HALF:g} or not finite cannot be stored as {kind.name}")
    made = _coded(kind, x, weights, fit) if kind in CODEBOOKS else _encoded(kind, x, weights, fit)
    out[rows] = made.reshape(len(x), -1)


def _coded(kind: GGMLType, x: Floats, weights: Floats, fit: Fit) -> Bytes:
    """By entries of a table."""
    size = BLOCK[kind][0]
    every = np.tile(weights.reshape(-1, size), (len(x), 1))
    return BLOCKS[kind](coded(x.reshape(-1, size), every, CODEBOOKS[kind], fit))


def _encoded(kind: GGMLType, x: Floats, weights: Floats, fit: Fit) -> Bytes:
    """By a grid, in groups [G, group]."""
    layout = LAYOUTS[kind]
    x, weights = x.reshape(-1, layout.group), np.tile(weights.reshape(-1, layout.group), (len(x), 1))
    found, together = fit.search(x, weights, layout.grid), BLOCK[kind][0] // layout.group
    n = len(x) // together
    nothing = np.zeros((n, 0), np.uint8)
    if not layout.steps:
        d, m = _halves(found.d), _halves(found.m)
        return layout.pack(fit.places(x, d, m, layout.grid), d, m, nothing, nothing)
    d, m, scales, minima = _Super(layout, x, weights, fit, together).fitted(found)
    each_d, each_m = (d[:, None] * scales).reshape(-1), (-m[:, None] * minima).reshape(-1)
    q = fit.places(x, each_d, each_m, layout.grid).reshape(n, -1)
    return layout.pack(q, d, m, scales.astype(np.int8).view(np.uint8), minima.astype(np.uint8))


def _halves(numbers: Floats) -> Floats:
    """As float16 holds them."""
    return np.clip(numbers, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).astype(np.float32)


class _Super:
    """Super-blocks of groups, whose scales (and minima) are whole multiples of the super-block's own."""

    def __init__(self, layout: Layout, x: Floats, weights: Floats, fit: Fit, together: int) -> None:
        self.layout, self.x, self.weights, self.fit, self.together = layout, x, weights, fit, together
        self.low = 0 if layout.grid.minima else -layout.steps - 1
        self.totals = weights.sum(1).reshape(-1, together)
        self.totals_x = (weights * x).sum(1).reshape(-1, together)

    def fitted(self, found: Scales) -> tuple[Floats, Floats, Floats, Floats]:
        """d and m [n], their multiples [n, together]."""
        d_each, m_each = found.d.reshape(-1, self.together), -found.m.reshape(-1, self.together)
        d, m = self._first(d_each), _halves(m_each.max(1) / np.float32(self.layout.steps))
        scales = self._multiples(d_each, d, self.low)
        minima = self._multiples(m_each, m, 0)
        best = None
        for _ in range(ROUNDS):
            scales, minima, choice = self._chosen(d, m, scales, minima)
            error = choice.error.reshape(scales.shape).sum(1)
            if best is None:
                best = [error, d, m, scales, minima]
            else:
                better = error < best[0]
                for old, new in zip(best, (error, d, m, scales, minima), strict=True):
                    old[better] = new[better]
            d, m = self._refitted(scales, minima, choice.sums.reshape(3, *scales.shape), d, m)
        assert best is not None
        return best[1], best[2], best[3], best[4]

    def _first(self, d_each: Floats) -> Floats:
        """So that the largest scale is the largest multiple."""
        if self.low == 0:
            return _halves(d_each.max(1) / np.float32(self.layout.steps))
        peak = d_each[np.arange(len(d_each)), np.abs(d_each).argmax(1)]
        return _halves(peak / np.float32(self.low))

    def _multiples(self, each: Floats, unit: Floats, low: int) -> Floats:
        safe = np.where(unit == 0, 1, unit)[:, None]
        return np.clip(np.rint(np.where(unit[:, None] == 0, 0, each / safe)), low, self.layout.steps)

    def _chosen(self, d: Floats, m: Floats, scales: Floats, minima: Floats) -> tuple[Floats, Floats, Choice]:
        """The best multiples that are next to these."""
        steps = self.layout.steps
        around = [(i, j) for i in (0, -1, 1) for j in ((0, -1, 1) if self.layout.grid.minima else (0,))]
        tried = [
            (np.clip(scales + i, self.low, steps), np.clip(minima + j, 0, steps).astype(np.float32)) for i, j in around
        ]
        choice = self.fit.choose(
            self.x,
            self.weights,
            self.layout.grid,
            np.stack([(d[:, None] * s).reshape(-1) for s, _ in tried]).astype(np.float32),
            np.stack([(-m[:, None] * s).reshape(-1) for _, s in tried]).astype(np.float32),
        )
        at, shape = np.arange(choice.number.size), scales.shape
        scales = np.stack([s.reshape(-1) for s, _ in tried])[choice.number, at].reshape(shape)
        minima = np.stack([s.reshape(-1) for _, s in tried])[choice.number, at].reshape(shape)
        return scales, minima, choice

    def _refitted(self, scales: Floats, minima: Floats, sums: Floats, d: Floats, m: Floats) -> tuple[Floats, Floats]:
        """The best d and m for given multiples and quants, of which sums are given; those that are there if none is."""
        q1, q2, qx = sums
        a, right = (scales * scales * q2).sum(1), (scales * qx).sum(1)
        if not self.layout.grid.minima:
            return _halves(np.where(a > LEAST, right / np.maximum(a, LEAST), d)), m
        b, c = -(scales * minima * q1).sum(1), (minima * minima * self.totals).sum(1)
        low = -(minima * self.totals_x).sum(1)
        det = a * c - b * b
        good = det > np.float32(1e-6) * a * c
        det = np.where(good, det, 1)
        new_d, new_m = (c * right - b * low) / det, (a * low - b * right) / det
        good &= (new_d > 0) & (new_m >= 0)
        return _halves(np.where(good, new_d, d)), _halves(np.where(good, new_m, m))
