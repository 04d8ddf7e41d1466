"""Typed, bounded access to one architecture's metadata keys."""

from typing import NoReturn

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile

__all__ = ["ArchitectureKeys"]

LARGEST_NUMBER = 1e30  # well within float32, in which models are computed


class ArchitectureKeys:
    """Reads `<architecture>.<key>`; whatever is missing, of another type or out of bounds is an error that names it."""

    def __init__(self, gguf: GGUFFile, architecture: str) -> None:
        self._gguf = gguf
        self._architecture = architecture

    def __contains__(self, key: str) -> bool:
        return f"{self._architecture}.{key}" in self._gguf.metadata

    def fail(self, problem: str) -> NoReturn:
        raise PowerInferError(f"{self._gguf.path}: {self._architecture}.{problem}")

    def integer(self, key: str, default: int | None = None, *, low: int = 0, high: int = 1 << 32) -> int:
        """An integer in [low, high]. An array of equal integers, one a layer, counts as one integer."""
        full = f"{self._architecture}.{key}"
        value: object = self._gguf.metadata.get(full)
        if isinstance(value, np.ndarray):
            value = self._one_for_all_layers(key, value.tolist())
        if value is None:
            if default is None:
                self.fail(f"{key} is missing: the file does not describe a model")
            value = default
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(f"{key} is not an integer")
        if not low <= value <= high:
            self.fail(f"{key} is {value}, outside {low} to {high}")
        return value

    def _one_for_all_layers(self, key: str, values: list[object]) -> object:
        if not values or any(value != values[0] for value in values):
            self.fail(f"{key} differs from layer to layer: not supported")
        return values[0]

    def number(
        self, key: str, default: float | None = None, *, low: float = -LARGEST_NUMBER, high: float = LARGEST_NUMBER
    ) -> float:
        """A number in [low, high]; NaN is in no range."""
        value = self._gguf.metadata.get(f"{self._architecture}.{key}", default)
        if value is None:
            self.fail(f"{key} is missing: the file does not describe a model")
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(f"{key} is not a number")
        if not low <= value <= high:
            self.fail(f"{key} is {value}, which makes no sense")
        return float(value)

    def text(self, key: str, default: str) -> str:
        return self._gguf.get(f"{self._architecture}.{key}", str, default)
