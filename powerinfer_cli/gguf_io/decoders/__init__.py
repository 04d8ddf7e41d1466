"""Stored bytes to float32, exactly as the `gguf` package computes them."""

from .dispatch import dequantize

__all__ = ["dequantize"]
