"""Quantised blocks whose numbers are, four or eight together, entries of a table: entries, signs and scales.

A run of numbers has one scale, d * unit * (2 k + 1) with a whole k from 0 to `top`; d is the super-block's. For a given
scale the best entry of a group is the nearest one by weighted squares; for given entries the best scale is a
least-squares problem of one unknown. From several starts both are solved in turn. Layouts: `ggml-common.h`.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np
import numpy.typing as npt

from ..decoders.i_quants import entries
from ..encoder import LARGEST_HALF
from ..types import GGMLType
from .fitting import LEAST, Fit, Nearest, inverse

__all__ = ["CODEBOOKS", "Codebook", "Coded", "SignBits", "coded"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int64]
BLOCK_SIZE = 256
REFITS, ROUNDS = 2, 2
SHIFT = np.float32(0.125)  # of the entries of one-bit types, up or down


class SignBits(Enum):
    """How signs are stored: with the entries, a bit for each number, or seven bits for eight, an even number of them
    set.
    """

    NONE = auto()
    EACH = auto()
    EVEN = auto()


@dataclass(frozen=True)
class Codebook:
    """A type's. name: of its table. run: numbers of a scale. unit, top: see above. starts: what the largest number of a
    run becomes, in the table's units. shifted: an entry is moved up or down, of a run all alike if `together`.
    """

    name: str
    run: int
    signs: SignBits
    unit: float
    top: int
    starts: tuple[float, ...]
    shifted: bool = False
    together: bool = False

    @property
    def tables(self) -> list[Floats]:
        """Those that a run chooses from, [entries, width] each."""
        table = entries(self.name)
        if not self.shifted:
            return [table]
        both = [table + SHIFT, table - SHIFT]
        return both if self.together else [np.concatenate(both)]


@dataclass(frozen=True)
class Coded:
    """Of n super-blocks: d [n], k [n, runs], entries [n, groups], bits of signs [n, 256] (1: minus), which table each
    run has taken [n, runs].
    """

    d: Floats
    k: Bytes
    entries: npt.NDArray[np.uint16]
    signs: Bytes
    tables: Bytes


def _starts(low: float, high: float) -> tuple[float, ...]:
    return tuple(float(one) for one in np.linspace(low, high, 8))


CODEBOOKS = {
    GGMLType.IQ2_XXS: Codebook("IQ2_XXS", 32, SignBits.EVEN, 0.125, 15, _starts(34, 80)),
    GGMLType.IQ2_XS: Codebook("IQ2_XS", 16, SignBits.EVEN, 0.125, 15, _starts(34, 70)),
    GGMLType.IQ2_S: Codebook("IQ2_S", 16, SignBits.EACH, 0.125, 15, _starts(34, 70)),
    GGMLType.IQ3_XXS: Codebook("IQ3_XXS", 32, SignBits.EVEN, 0.25, 15, _starts(44, 80)),
    GGMLType.IQ3_S: Codebook("IQ3_S", 32, SignBits.EACH, 1.0, 15, _starts(11, 18)),
    GGMLType.IQ1_S: Codebook("IQ1_S", 32, SignBits.NONE, 1.0, 7, _starts(1.0, 3.2), shifted=True, together=True),
    GGMLType.IQ1_M: Codebook("IQ1_M", 16, SignBits.NONE, 1.0, 7, _starts(1.0, 2.8), shifted=True),
}


def coded(x: Floats, weights: Floats, book: Codebook, fit: Fit) -> Coded:
    """Super-blocks [n, 256] of numbers, and how much their squared errors matter."""
    signs, sizes = _signed(x, weights, book.signs)
    search = _Search(sizes.reshape(-1, book.run), weights.reshape(-1, book.run), book, fit)
    d, k, tables, found = search.super_blocks(search.scales())
    n = len(x)
    return Coded(d, k.astype(np.uint8), found.astype(np.uint16).reshape(n, -1), signs, tables.astype(np.uint8))


def _signed(x: Floats, weights: Floats, signs: SignBits) -> tuple[Bytes, Floats]:
    """Bits, and what is left for the table. Where an even number of bits is due, the number that matters least gets the
    wrong one, and so is negative there.
    """
    if signs is SignBits.NONE:
        return np.zeros(x.shape, np.uint8), x
    minus, sizes = (x < 0).astype(np.uint8), np.abs(x)
    if signs is SignBits.EVEN:
        eights = minus.reshape(-1, 8)
        [odd] = np.nonzero(eights.sum(1) % 2)
        least = (weights * x * x).reshape(-1, 8)[odd].argmin(1)
        eights[odd, least] ^= 1
        sizes.reshape(-1, 8)[odd, least] *= -1
    return minus, sizes


class _Search:
    """Runs [N, run] of numbers."""

    def __init__(self, x: Floats, weights: Floats, book: Codebook, fit: Fit) -> None:
        self.book, self.fit, self.n = book, fit, len(x)
        self.tables = book.tables
        width = self.tables[0].shape[1]
        self.peaks = np.abs(x).max(1)
        self.x, self.weights = x.reshape(-1, width), weights.reshape(-1, width)
        self.groups = book.run // width
        self.runs = BLOCK_SIZE // book.run

    def nearest(self, inverses: Floats) -> list[Nearest]:
        """For each table, with 1 / scales [N, S] of the runs; sums are of runs, [N, S], entries of groups, [M, S]."""
        each = np.repeat(inverses, self.groups, axis=0).astype(np.float32)
        found = []
        for table in self.tables:
            one = self.fit.nearest(self.x, self.weights, table, each)
            shape = (self.n, self.groups, -1)
            found.append(Nearest(one.number, one.qx.reshape(shape).sum(1), one.qq.reshape(shape).sum(1)))
        return found

    def scales(self) -> Floats:
        """The best scale of each run, whatever its super-block has, [N]."""
        best, scale = np.zeros(self.n, np.float32), np.zeros(self.n, np.float32)
        inverses = np.array(self.book.starts, np.float32) * inverse(self.peaks)[:, None]
        for _ in range(1 + REFITS):
            for one in self.nearest(inverses):
                fitting = np.where(one.qx > 0, one.qx, 0) * inverse(one.qq)
                gain = fitting * one.qx
                at = np.arange(self.n), gain.argmax(1)
                better = gain[at] > best
                best, scale = np.where(better, gain[at], best), np.where(better, fitting[at], scale)
            inverses = inverse(scale)[:, None]
        return scale

    def super_blocks(self, scale: Floats) -> tuple[Floats, Whole, Whole, Whole]:
        """d [n], k [n, runs], the number of each run's table, entries [n, groups]."""
        book, each = self.book, scale.reshape(-1, self.runs)
        d = _half(each.max(1) / np.float32(book.unit * (2 * book.top + 1)))
        k = self._steps(each, d)
        best: list[npt.NDArray[Any]] = []
        least = np.full(len(d), np.inf)
        for _ in range(ROUNDS):
            k, tables, found, qx, qq = self._chosen(d, k)
            m = book.unit * (2.0 * k + 1.0)
            error = (d[:, None] * m * (d[:, None] * m * qq - 2 * qx)).sum(1)
            here: list[npt.NDArray[Any]] = [d, k, tables, found.reshape(len(d), -1)]
            if not best:
                best = [one.copy() for one in here]
            better = error < least
            for old, new in zip(best, here, strict=True):
                old[better] = new[better]
            least = np.where(better, error, least)
            total = (m * m * qq).sum(1)
            refitted = np.maximum((m * qx).sum(1) / np.maximum(total, LEAST), 0)
            d = _half(np.where(total > LEAST, refitted, d))
        return best[0], best[1], best[2], best[3]

    def _steps(self, each: Floats, d: Floats) -> Whole:
        by = inverse(d * np.float32(self.book.unit))[:, None]
        return np.clip(np.rint((each * by - 1) / 2), 0, self.book.top).astype(np.int64)

    def _chosen(self, d: Floats, k: Whole) -> tuple[Whole, Whole, Whole, Floats, Floats]:
        """The best of the steps around k, and of the tables: steps, tables, entries [N, groups], sums [n, runs]."""
        tried = np.stack([np.clip(k + more, 0, self.book.top) for more in (0, -1, 1)], -1).reshape(self.n, -1)
        scale = np.repeat(d, self.runs)[:, None] * np.float32(self.book.unit) * (2 * tried + 1).astype(np.float32)
        found = self.nearest(inverse(scale))
        errors = np.concatenate([scale * (scale * one.qq - 2 * one.qx) for one in found], 1)
        number = errors.argmin(1)
        table, step = number // tried.shape[1], number % tried.shape[1]
        at = np.arange(self.n)
        qx, qq = (np.stack([getattr(one, name) for one in found])[table, at, step] for name in ("qx", "qq"))
        numbers = np.stack([one.number.reshape(self.n, self.groups, -1) for one in found])[table, at, :, step]
        shape = k.shape
        return tried[at, step].reshape(shape), table.reshape(shape), numbers, qx.reshape(shape), qq.reshape(shape)


def _half(numbers: Floats) -> Floats:
    """As float16 holds them."""
    return np.clip(numbers, 0, LARGEST_HALF).astype(np.float16).astype(np.float32)
