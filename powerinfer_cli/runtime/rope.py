"""The angles by which a model's heads are turned."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.angles import rope_frequencies
from powerinfer_cli.model import ModelConfig, Weights

__all__ = ["frequencies_of"]


def frequencies_of(config: ModelConfig, weights: Weights) -> npt.NDArray[np.float64] | None:
    """The angle per position of each rotated pair, [n_rot / 2]; None: positions are learned."""
    if config.rope is None:
        return None
    divisors = weights.rope_freqs.to_float32() if weights.rope_freqs else None
    return rope_frequencies(config.rope, divisors)
