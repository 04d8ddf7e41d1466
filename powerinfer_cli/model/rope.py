"""Rotary positions: which dimensions of a head turn, by how much a position, and what that scales them by."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import numpy as np
import numpy.typing as npt

__all__ = ["Rope", "RopeScaling", "RopeStyle"]

Floats = npt.NDArray[np.float32]
Frequencies = npt.NDArray[np.float64]


class RopeStyle(StrEnum):
    """Which two dimensions of a head turn together: neighbours (2i, 2i+1), or halves (i, i + n_rot/2)."""

    INTERLEAVED = "interleaved"
    NEOX = "neox"

    def steps(self, n_rot: int) -> tuple[int, int]:
        """How far the second of a pair is from the first, and a pair from the one before it."""
        match self:
            case RopeStyle.INTERLEAVED:
                return 1, 2
            case RopeStyle.NEOX:
                return n_rot // 2, 1
        assert_never(self)


class RopeScaling(StrEnum):
    NONE = "none"
    LINEAR = "linear"
    YARN = "yarn"
    LONGROPE = "longrope"


@dataclass(frozen=True, eq=False)
class Rope:
    """One for all layers that turn alike. `factor` stretches positions (linear, YaRN); divisors [n_rot / 2], of
    llama3's scaling and of longrope's, make waves longer, pair by pair: `long_divisors` where a sequence may become
    longer than the original context.
    """

    style: RopeStyle
    n_rot: int  # leading dimensions of a head that are rotated
    base: float
    scaling: RopeScaling
    factor: float
    n_ctx_original: int
    attn_factor: float
    yarn_attn_factor: float | None  # replaces the gain that follows from YaRN's factor
    log_multiplier: float
    beta_fast: float
    beta_slow: float
    divisors: Floats | None = None
    long_divisors: Floats | None = None
    whole_pairs: bool = True  # YaRN's ramp begins and ends at pairs; else between them

    def frequencies(self, n_ctx: int) -> npt.NDArray[np.float64]:
        """Angle per position of each rotated pair, [n_rot / 2], in sequences of up to n_ctx positions.

        base^(-2i/n_rot), then: divided by the divisors where the file has them; linear scaling divides by the factor;
        YaRN blends scaled (long waves) and unscaled (short waves) by a ramp over the dimensions between `beta_fast` and
        `beta_slow` turns within the original context (Peng et al. 2023, section 3.2, as in ggml).
        """
        pair = np.arange(self.n_rot // 2, dtype=np.float64)
        unscaled = self.base ** (-2 * pair / self.n_rot)
        divisors = self.divisors
        if self.long_divisors is not None and n_ctx > self.n_ctx_original:
            divisors = self.long_divisors
        if divisors is not None:
            unscaled = unscaled / divisors.astype(np.float64)
        scaled = unscaled / self.factor
        match self.scaling:
            case RopeScaling.NONE | RopeScaling.LINEAR | RopeScaling.LONGROPE:
                return scaled
            case RopeScaling.YARN:
                return self._blended(pair, unscaled, scaled)
        assert_never(self.scaling)

    def _blended(self, pair: Frequencies, unscaled: Frequencies, scaled: Frequencies) -> Frequencies:

        def dimension(turns: float) -> float:
            """The pair, as a real number, that makes this many turns within the original context."""
            return self.n_rot * math.log(self.n_ctx_original / (turns * 2 * math.pi)) / (2 * math.log(self.base))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.whole_pairs:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(0, low), min(self.n_rot - 1, high)
        ramp = ((pair - low) / max(0.001, high - low)).clip(0, 1)
        blended: Frequencies = unscaled * (1 - ramp) + scaled * ramp
        return blended

    @property
    def magnitude(self) -> float:
        """What YaRN multiplies rotated queries and keys by (section 3.4), times the file's own factor."""
        match self.scaling:
            case RopeScaling.NONE | RopeScaling.LINEAR | RopeScaling.LONGROPE:
                return self.attn_factor
            case RopeScaling.YARN:
                return self.attn_factor * self._yarn_gain
        assert_never(self.scaling)

    @property
    def _yarn_gain(self) -> float:
        def scale(multiplier: float) -> float:
            return 1.0 if self.factor <= 1 else 0.1 * multiplier * math.log(self.factor) + 1.0

        if self.yarn_attn_factor is not None:
            return self.yarn_attn_factor
        if self.log_multiplier:  # DeepSeek's variant: the gain over all dimensions is taken out again
            return scale(1.0) / scale(self.log_multiplier)
        return scale(1.0)
