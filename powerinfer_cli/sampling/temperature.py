"""Temperature, fixed or following the entropy."""

from __future__ import annotations

import math

import numpy as np

from powerinfer_cli.sampling.candidates import Candidates, largest, softmax


def temperature(candidates: Candidates, temp: float) -> Candidates:
    """Divide the logits by `temp`; 0 or less leaves the most likely token alone (greedy)."""
    divisor = np.float32(temp)
    if divisor <= 0.0:
        return largest(candidates, 1)
    with np.errstate(over="ignore"):
        scaled = candidates.logits / divisor
    # A temperature near 0 takes float32 past its end: in the limit it is greedy.
    if not np.isfinite(scaled.max()):
        return largest(candidates, 1)
    return Candidates(candidates.ids, scaled, candidates.sorted)


def dynamic_temperature(candidates: Candidates, temp: float, spread: float, exponent: float) -> Candidates:
    """A temperature from temp-spread to temp+spread, the higher the nearer the entropy is to its maximum.

    `spread` 0 or less: `temp` as it is.
    """
    if spread <= 0.0:
        return temperature(candidates, temp)
    if candidates.size <= 1:
        return candidates
    lowest, highest = max(0.0, temp - spread), max(0.0, temp) + spread
    ranked = largest(candidates, candidates.size)
    probs = softmax(ranked).astype(np.float64)
    probs = probs[probs > 0.0]
    entropy = max(0.0, -float(probs @ np.log(probs)))
    share = min(1.0, entropy / math.log(ranked.size))
    return temperature(ranked, lowest + (highest - lowest) * share**exponent)
