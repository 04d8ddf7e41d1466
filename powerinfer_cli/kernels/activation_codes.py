"""The activations as kernels know them: by number, those with exact zeros first."""

from powerinfer_cli.model import Activation

__all__ = ["ACTIVATION_CODES", "EXACT"]

EXACT = 2
"""Codes below are of activations that are 0 for all negative numbers: what multiplies those need not be read."""

ACTIVATION_CODES = {
    Activation.RELU: 0,
    Activation.RELU_SQUARED: 1,
    Activation.SILU: 2,
    Activation.GELU: 3,
    Activation.GELU_TANH: 4,
}
