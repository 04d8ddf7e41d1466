"""Stored bytes to float32, exactly as the `gguf` package computes them."""

from .dispatch import dequantize
from .four_bit_floats import NON_LINEAR

__all__ = ["NON_LINEAR", "dequantize"]
