"""The activations as kernels know them: by number, those with exact zeros first."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.model import Activation
from powerinfer_cli.model.blocks import XIELU

__all__ = ["ACTIVATION_CODES", "EXACT", "curve_numbers"]

EXACT = 2
"""Codes below are of activations that are 0 for all negative numbers: what multiplies those need not be read."""

ACTIVATION_CODES = {
    Activation.RELU: 0,
    Activation.RELU_SQUARED: 1,
    Activation.SILU: 2,
    Activation.GELU: 3,
    Activation.GELU_TANH: 4,
    Activation.XIELU: 5,
    Activation.CLAMPED_SWISH: 6,
}


def curve_numbers(curve: XIELU | None) -> npt.NDArray[np.float32] | None:
    """As kernels read them, [4]."""
    return None if curve is None else np.array([curve.rise, curve.fall, curve.beta, curve.eps], np.float32)
