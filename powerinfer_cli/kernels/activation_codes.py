"""The activations as kernels know them: by number, those with exact zeros first."""

from typing import assert_never

import numpy as np
import numpy.typing as npt

from powerinfer_cli.model import Activation
from powerinfer_cli.model.blocks import XIELU, Curve, FatReLU

__all__ = ["ACTIVATION_CODES", "EXACT", "curve_numbers"]

EXACT = 3
"""Codes below are of activations that are 0 for all negative numbers: what multiplies those need not be read."""

ACTIVATION_CODES = {
    Activation.RELU: 0,
    Activation.RELU_SQUARED: 1,
    Activation.FATRELU: 2,
    Activation.SILU: 3,
    Activation.GELU: 4,
    Activation.GELU_TANH: 5,
    Activation.XIELU: 6,
    Activation.CLAMPED_SWISH: 7,
}


def curve_numbers(curve: Curve | None) -> npt.NDArray[np.float32] | None:
    """As kernels read them, [4]: xIELU's rise, fall, beta and eps, or FATReLU's threshold in front."""
    match curve:
        case None:
            return None
        case XIELU():
            return np.array([curve.rise, curve.fall, curve.beta, curve.eps], np.float32)
        case FatReLU():
            return np.array([curve.threshold, 0.0, 0.0, 0.0], np.float32)
    assert_never(curve)
