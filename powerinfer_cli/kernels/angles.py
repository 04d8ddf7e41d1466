"""By how much rotary positions turn each pair of dimensions, and what they scale it by."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.model import RopeConfig, RopeScaling

__all__ = ["rope_frequencies", "rope_magnitude"]


def rope_frequencies(rope: RopeConfig, divisors: npt.NDArray[Any] | None = None) -> npt.NDArray[np.float64]:
    """Angle per position of each rotated pair, float64 [n_rot / 2].

    base^(-2i/n_rot), then: divided by llama3's `divisors` [n_rot / 2] where the file has them; linear scaling divides
    by the factor; YaRN blends scaled (long waves) and unscaled (short waves) by a ramp over the dimensions between
    `beta_fast` and `beta_slow` turns within the original context (Peng et al. 2023, section 3.2, as in ggml).
    """
    pair = np.arange(rope.n_rot // 2, dtype=np.float64)
    unscaled = rope.base ** (-2 * pair / rope.n_rot)
    if divisors is not None:
        unscaled = unscaled / divisors.astype(np.float64)
    scaled = unscaled / rope.factor
    if rope.scaling is not RopeScaling.YARN:
        return scaled

    def dimension(turns: float) -> float:
        """The pair, as a real number, that makes this many turns within the original context."""
        return rope.n_rot * math.log(rope.n_ctx_original / (turns * 2 * math.pi)) / (2 * math.log(rope.base))

    low = max(0, math.floor(dimension(rope.beta_fast)))
    high = min(rope.n_rot - 1, math.ceil(dimension(rope.beta_slow)))
    ramp = ((pair - low) / max(0.001, high - low)).clip(0, 1)
    blended: npt.NDArray[np.float64] = unscaled * (1 - ramp) + scaled * ramp
    return blended


def rope_magnitude(rope: RopeConfig) -> float:
    """What YaRN multiplies rotated queries and keys by (section 3.4), times the file's own factor."""

    def scale(multiplier: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * multiplier * math.log(rope.factor) + 1.0

    if rope.scaling is not RopeScaling.YARN:
        return rope.attn_factor
    if rope.yarn_attn_factor is not None:
        return rope.attn_factor * rope.yarn_attn_factor
    if rope.log_multiplier:  # DeepSeek's variant: the gain over all dimensions is taken out again
        return rope.attn_factor * scale(1.0) / scale(rope.log_multiplier)
    return rope.attn_factor * scale(1.0)
