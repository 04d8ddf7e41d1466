"""Samplers that leave candidates out. Each is a pure function, and does nothing at its "off" value.

`min_keep` is the number of candidates that a sampler leaves at least, if there are that many.
"""

from __future__ import annotations

import math

import numpy as np

from powerinfer_cli.sampling.candidates import Candidates, Floats, largest, softmax

# Nearly always enough for top-p, and much cheaper to find than the order of a whole vocabulary.
_TOP_P_FIRST_TRY = 256


def top_k(candidates: Candidates, k: int) -> Candidates:
    """The `k` most likely tokens; 0 or less = off."""
    return candidates if k <= 0 else largest(candidates, k)


def top_p(candidates: Candidates, p: float, min_keep: int = 0) -> Candidates:
    """The smallest set of most likely tokens whose probabilities reach `p` together; 1 or more = off."""
    if p >= 1.0:
        return candidates
    probs = softmax(candidates)
    by_prob = Candidates(candidates.ids, probs, candidates.sorted)
    for k in (_TOP_P_FIRST_TRY, candidates.size):
        head = largest(by_prob, k).logits
        reached = np.cumsum(head, dtype=np.float64)
        n = max(int(np.searchsorted(reached, p)) + 1, min_keep)
        if n <= head.size:
            break
    return largest(candidates, n)


def min_p(candidates: Candidates, p: float, min_keep: int = 0) -> Candidates:
    """The tokens at least `p` times as likely as the most likely one; 0 or less = off."""
    if p <= 0.0:
        return candidates
    kept = candidates.logits >= candidates.logits.max() + np.float32(math.log(p))
    n_kept = int(np.count_nonzero(kept))
    if n_kept >= max(min_keep, 1):
        return candidates.where(kept)
    return largest(candidates, max(min_keep, 1))


def typical(candidates: Candidates, p: float, min_keep: int = 0) -> Candidates:
    """Locally typical sampling: the tokens whose surprise is nearest to the entropy, until they exceed `p` together.

    1 or more = off. The result stands in the order of that distance. Meister et al., "Locally Typical Sampling".
    """
    if p >= 1.0:
        return candidates
    ranked = largest(candidates, candidates.size)
    probs = softmax(ranked)
    possible = int(np.count_nonzero(probs))  # sorted, so the impossible ones are the tail
    probs = probs[:possible].astype(np.float64)
    surprise = -np.log(probs)
    distance = np.abs(surprise - probs @ surprise)
    order = np.argsort(distance, kind="stable")
    n = int(np.searchsorted(np.cumsum(probs[order]), p, side="right")) + 1
    order = order[: max(n, min_keep)]
    return Candidates(ranked.ids[order], ranked.logits[order])


def tail_free(candidates: Candidates, z: float, min_keep: int = 0) -> Candidates:
    """Cut the tail where the sorted probabilities' curvature is used up to `z`; 1 or more = off.

    As llama.cpp had it until November 2024.
    """
    if z >= 1.0 or candidates.size <= 2:
        return candidates
    ranked = largest(candidates, candidates.size)
    curvature = np.abs(np.diff(softmax(ranked).astype(np.float64), n=2))
    total = curvature.sum()
    share = curvature / total if total > 1e-6 else np.full(curvature.size, 1.0 / curvature.size)
    cut = max(int(np.searchsorted(np.cumsum(share), z, side="right")), min_keep, 1)
    return ranked.first(cut) if cut < curvature.size else ranked


def top_n_sigma(candidates: Candidates, n: float) -> Candidates:
    """Rule out logits more than `n` standard deviations under the largest; 0 or less = off."""
    if n <= 0.0 or candidates.size <= 1:
        return candidates
    finite = candidates.logits[candidates.logits > -np.inf].astype(np.float64)
    if finite.size == 0:
        return candidates
    floor = finite.max() - n * finite.std()
    masked: Floats = np.where(candidates.logits < floor, np.float32(-np.inf), candidates.logits)
    return Candidates(candidates.ids, masked, candidates.sorted)


def exclude_top_choices(candidates: Candidates, threshold: float, min_keep: int = 0) -> Candidates:
    """XTC: of the tokens with probability `threshold` or more, only the least likely stays; over 0.5 = off.

    Whether XTC acts on a token at all is a draw with `xtc_probability`, which is the caller's.
    """
    if threshold > 0.5 or candidates.size < 2:
        return candidates
    ranked = largest(candidates, candidates.size)
    probs = softmax(ranked)
    n_top = int(np.count_nonzero((probs >= threshold) & (probs > 0.0)))
    removed = n_top - 1
    if removed <= 0 or ranked.size - removed < min_keep:
        return ranked
    return Candidates(ranked.ids[removed:], ranked.logits[removed:], sorted=True)
