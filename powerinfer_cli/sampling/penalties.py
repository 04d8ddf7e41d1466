"""Samplers that move single tokens' logits: logit bias, and repeat, frequency and presence penalties."""

from __future__ import annotations

import numpy as np

from powerinfer_cli.sampling.candidates import Candidates, Floats, Ids


def bias(candidates: Candidates, tokens: Ids, biases: Floats) -> Candidates:
    """Add `biases` [n] to the logits of `tokens` [n] (ascending, unique); -inf rules a token out."""
    if tokens.size == 0:
        return candidates
    positions, which = candidates.locate(tokens)
    logits = candidates.logits.copy()
    logits[positions] += biases[which]
    return candidates.with_logits(logits)


def penalties(candidates: Candidates, recent: Ids, repeat: float, frequency: float, presence: float) -> Candidates:
    """Make the `recent` tokens less likely. Off: 1 for `repeat`, 0 for the others.

    A positive logit is divided by `repeat`, another multiplied; then `frequency` is taken off once for each time that
    the token occurs and `presence` once.
    """
    if recent.size == 0 or (repeat == 1.0 and frequency == 0.0 and presence == 0.0):
        return candidates
    tokens, counts = np.unique(recent, return_counts=True)
    positions, which = candidates.locate(tokens)
    logits = candidates.logits.copy()
    hit = logits[positions]
    hit = np.where(hit <= 0.0, hit * np.float32(repeat), hit / np.float32(repeat))
    logits[positions] = hit - (counts[which].astype(np.float32) * np.float32(frequency) + np.float32(presence))
    return candidates.with_logits(logits)
