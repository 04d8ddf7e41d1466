"""The set of tokens that may come next, as every sampler takes and returns it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from powerinfer_cli.errors import PowerInferError

Ids: TypeAlias = NDArray[np.intp]
Floats: TypeAlias = NDArray[np.float32]

_RUN = 64


class NothingLeft(PowerInferError):
    """What was asked for leaves no token that could be drawn."""


@dataclass(frozen=True)
class Candidates:
    """Token ids with their logits, both [n]. Arrays are never written to after construction.

    `sorted` says that logits fall from first to last, the lower id first among equals.
    """

    ids: Ids
    logits: Floats
    sorted: bool = False

    @property
    def size(self) -> int:
        return self.ids.size

    def first(self, n: int) -> Candidates:
        return Candidates(self.ids[:n], self.logits[:n], self.sorted)

    def where(self, kept: NDArray[np.bool_]) -> Candidates:
        return Candidates(self.ids[kept], self.logits[kept], self.sorted)

    def with_logits(self, logits: Floats) -> Candidates:
        """The same tokens with other logits, in no known order."""
        return Candidates(self.ids, logits)

    def locate(self, tokens: Ids) -> tuple[Ids, Ids]:
        """Where `tokens` (ascending, unique) stand: positions here, and for each its index in `tokens`.

        Tokens that are no candidates are left out.
        """
        whole = tokens.size == 0 or tokens[-1] < self.size
        if whole and np.array_equal(self.ids[tokens], tokens):
            return tokens, np.arange(tokens.size)
        positions = np.flatnonzero(np.isin(self.ids, tokens))
        return positions, np.searchsorted(tokens, self.ids[positions])


def from_logits(logits: Floats) -> Candidates:
    """Every token of the vocabulary; `logits` is [n_vocab]."""
    return Candidates(np.arange(logits.size), logits)


def largest(candidates: Candidates, k: int) -> Candidates:
    """The `k` largest logits, sorted; all of them when there are fewer. Equal logits: the lower id first."""
    if candidates.sorted:
        return candidates.first(k)
    ids, logits = candidates.ids, candidates.logits
    if k < ids.size:
        near = _at_least_kth_of_peaks(logits, k)
        if near is not None:
            ids, logits = ids[near], logits[near]
        smallest_kept = np.partition(logits, ids.size - k)[ids.size - k]
        kept = np.flatnonzero(logits > smallest_kept)
        level = np.flatnonzero(logits == smallest_kept)
        level = level[np.argsort(ids[level])][: k - kept.size]
        kept = np.concatenate([kept, level])
        ids, logits = ids[kept], logits[kept]
    order = _falling(ids, logits)
    return Candidates(ids[order], logits[order], sorted=True)


def _falling(ids: Ids, logits: Floats) -> Ids:
    """The order in which logits fall, the lower id first among equals. As lexsort, whose two sorts take ten times as
    long over a vocabulary: equals are few, and put right afterwards.
    """
    order = np.argsort(-logits)
    level = logits[order]
    equal = level[1:] == level[:-1]
    if equal.any():
        places = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
        among = order[places]
        order[places] = among[np.lexsort((ids[among], -logits[among]))]
    return order


def _at_least_kth_of_peaks(logits: Floats, k: int) -> Ids | None:
    """Where the k largest of many are, and few others: whatever is not less than the k-th largest of the peaks of runs
    of _RUN, for k runs hold as much. A fifth of the time of `np.partition` over a vocabulary. None: it does not pay.
    """
    runs = logits.size // _RUN
    if not 0 < k < runs // 4:
        return None
    peaks = logits[: runs * _RUN].reshape(runs, _RUN).max(axis=1)
    return np.flatnonzero(logits >= np.partition(peaks, runs - k)[runs - k])


def softmax(candidates: Candidates) -> Floats:
    """Probabilities [n], in the candidates' order.

    Raises NothingLeft when no candidate is possible or a logit overflowed.
    """
    peak = candidates.logits.max(initial=-np.inf)
    if not np.isfinite(peak):
        raise NothingLeft(
            "no token can be sampled: every token is ruled out or a penalty overflows; check logit biases and penalties"
        )
    weights = np.exp(candidates.logits - peak)
    probs: Floats = (weights / weights.sum(dtype=np.float64)).astype(np.float32)
    return probs
