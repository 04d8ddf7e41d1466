"""The last step: which of the candidates it is. Mirostat and adaptive-p learn from what they chose."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from powerinfer_cli.sampling.candidates import Candidates, Floats, largest, softmax

_MIROSTAT_M = 100  # tokens from which mirostat 1 estimates the Zipf exponent

_ADAPTIVE_WIDTH = 0.3
_ADAPTIVE_PEAK = 5.0
_ADAPTIVE_SHARPNESS = 10.0


class Selector(Protocol):
    """narrow() is pure; choosing is told by chose(), and by accept() for the token that entered the text."""

    draws_for_one: bool  # llama.cpp's plain draw uses up a random number even when there is no choice

    def narrow(self, candidates: Candidates) -> Candidates: ...
    def chose(self, before: Candidates, after: Candidates, index: int) -> None: ...
    def accept(self, token: int) -> None: ...
    def reset(self) -> None: ...


class PlainSelector:
    """Draws from the candidates as they are."""

    draws_for_one = True

    def narrow(self, candidates: Candidates) -> Candidates:
        return candidates

    def chose(self, before: Candidates, after: Candidates, index: int) -> None:
        pass

    def accept(self, token: int) -> None:
        pass

    def reset(self) -> None:
        pass


class MirostatSelector:
    """Mirostat 1 or 2: keeps the surprise of the text near `tau` bits. Basu et al., "Mirostat"."""

    draws_for_one = False

    def __init__(self, version: int, tau: float, eta: float, n_vocab: int) -> None:
        self.version, self.tau, self.eta, self.n_vocab = version, tau, eta, n_vocab
        self.mu = 2.0 * tau

    def narrow(self, candidates: Candidates) -> Candidates:
        if self.version == 1:
            return largest(candidates, mirostat_k(candidates, self.mu, self.n_vocab))
        return mirostat_v2(candidates, self.mu)

    def chose(self, before: Candidates, after: Candidates, index: int) -> None:
        surprise = -math.log2(float(softmax(after)[index]))
        self.mu -= self.eta * (surprise - self.tau)

    def accept(self, token: int) -> None:
        pass

    def reset(self) -> None:
        self.mu = 2.0 * self.tau


def mirostat_k(candidates: Candidates, mu: float, n_vocab: int) -> int:
    """Mirostat 1: how many tokens to keep so that their surprise is near `mu`, by Zipf's law."""
    head = largest(candidates, _MIROSTAT_M).logits.astype(np.float64)
    head = head[head > -np.inf]
    if head.size < 2 or n_vocab < 2:
        return 1
    steps = np.log(np.arange(2, head.size + 1) / np.arange(1, head.size))
    falls = -np.diff(head)
    exponent = float(steps @ falls) / float(steps @ steps)
    epsilon = exponent - 1.0
    log_n = math.log(n_vocab)
    # epsilon / (1 - n_vocab**-epsilon), whose limit at 0 is 1 / log(n_vocab)
    scale = 1.0 / log_n if abs(epsilon) < 1e-9 else epsilon / -math.expm1(-epsilon * log_n)
    log_k = (mu * math.log(2.0) + math.log(scale)) / max(exponent, 1e-9)
    if log_k >= math.log(candidates.size):
        return candidates.size
    return max(int(math.exp(log_k)), 1)


def mirostat_v2(candidates: Candidates, mu: float) -> Candidates:
    """Mirostat 2: the tokens whose surprise in bits is `mu` at most, and the most likely one in any case."""
    probs = softmax(candidates)
    with np.errstate(divide="ignore"):
        kept = -np.log2(probs) <= mu
    if not kept.any():
        return largest(candidates, 1)
    return largest(candidates.where(kept), candidates.size)


class AdaptiveSelector:
    """Adaptive-p: prefers tokens whose probability is near a target, which follows what was chosen before.

    A negative target draws from the candidates as they are.
    """

    draws_for_one = False

    def __init__(self, target: float, decay: float) -> None:
        self.target, self.decay = target, decay
        self.reset()

    def reset(self) -> None:
        self.weighted_sum = self.target / (1.0 - self.decay)
        self.total_weight = 1.0 / (1.0 - self.decay)
        self._pending: tuple[int, float] | None = None

    def narrow(self, candidates: Candidates) -> Candidates:
        if self.target < 0.0:
            return candidates
        wanted = 2.0 * self.target - self.weighted_sum / self.total_weight
        return adaptive_p(candidates, min(max(wanted, 0.0), 1.0))

    def chose(self, before: Candidates, after: Candidates, index: int) -> None:
        if self.target >= 0.0:
            self._pending = int(before.ids[index]), float(softmax(before)[index])

    def accept(self, token: int) -> None:
        if self._pending is not None and self._pending[0] == token:
            self.weighted_sum = self._pending[1] + self.decay * self.weighted_sum
            self.total_weight = 1.0 + self.decay * self.total_weight
        self._pending = None


def adaptive_p(candidates: Candidates, target: float) -> Candidates:
    """New logits that peak where a token's probability is `target`: quadratic near it, falling linearly far away."""
    distance = np.abs(softmax(candidates) - np.float32(target)) / np.float32(_ADAPTIVE_WIDTH)
    peaked = _ADAPTIVE_PEAK - _ADAPTIVE_SHARPNESS * distance * distance / (1.0 + distance)
    logits: Floats = np.where(candidates.logits > -np.inf, peaked, -np.inf).astype(np.float32)
    return candidates.with_logits(logits)
