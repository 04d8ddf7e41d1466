"""Typed, bounded access to one architecture's metadata keys, which remembers what was asked for."""

from collections.abc import Callable
from typing import NoReturn, TypeVar

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile

__all__ = ["MAX_CONTEXT", "MAX_SIZE", "Keys"]

LARGEST_NUMBER = 1e30  # well within float32, in which models are computed
LARGEST_FACTOR = 1e6  # and the smallest is its inverse
MAX_SIZE = 1 << 24  # no width, head count or vocabulary is larger; what claims to be is not a model
MAX_CONTEXT = 1 << 28

T = TypeVar("T")


class Keys:
    """Reads `<architecture>.<key>`; whatever is missing, of another type or out of bounds is an error that names it.

    `asked`: the keys that were read, and so change what is computed as they should.
    """

    def __init__(self, gguf: GGUFFile, architecture: str) -> None:
        self._gguf = gguf
        self.architecture = architecture
        self.asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self._gguf.metadata

    def fail(self, problem: str) -> NoReturn:
        raise PowerInferError(f"{self._gguf.path}: {self.architecture}.{problem}")

    def integer(self, key: str, default: int | None = None, *, low: int = 0, high: int = 1 << 32) -> int:
        """An integer in [low, high]. An array of equal integers, one a layer, counts as one integer."""
        value = self._value(key)
        if isinstance(value, np.ndarray):
            value = self._one_for_all_layers(key, value.tolist())
        return self._integer(key, value, default, low, high)

    def integers(
        self, key: str, n_layer: int, default: int | None = None, *, low: int = 0, high: int = 1 << 32
    ) -> tuple[int, ...]:
        """One a layer, from an array of them or from one for all."""
        return self._each(key, n_layer, lambda value: self._integer(key, value, default, low, high))

    def numbers(
        self,
        key: str,
        n_layer: int,
        default: float | None = None,
        *,
        low: float = -LARGEST_NUMBER,
        high: float = LARGEST_NUMBER,
    ) -> tuple[float, ...]:
        """One a layer, from an array of them or from one for all."""
        return self._each(key, n_layer, lambda value: self._number(key, value, default, low, high))

    def number(
        self, key: str, default: float | None = None, *, low: float = -LARGEST_NUMBER, high: float = LARGEST_NUMBER
    ) -> float:
        """A number in [low, high]; NaN is in no range."""
        return self._number(key, self._value(key), default, low, high)

    def factor(self, key: str, default: float = 0.0) -> float | None:
        """Something to multiply with, or a cap: positive; 0 says None: there is none."""
        found = self.number(key, default, low=0.0, high=LARGEST_FACTOR)
        if 0 < found < 1 / LARGEST_FACTOR:
            self.fail(f"{key} is {found}, which makes no sense")
        return found or None

    def text(self, key: str, default: str) -> str:
        self.asked.add(key)
        return self._gguf.get(f"{self.architecture}.{key}", str, default)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._value(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(f"{key} is neither true nor false")
        return value

    def pattern(self, key: str, n_layer: int, period: int, *, first: bool = False) -> tuple[bool, ...]:
        """Which layers are of a kind (have a window, say): a flag for each layer; or a period, every so-many-th layer,
        or with `first` the first of so many, being of the other kind, which is `period` where the file says nothing.
        0: all are of this kind; 1: none is.
        """
        value = self._value(key)
        if isinstance(value, np.ndarray):
            flags = value.tolist()
            if len(flags) != n_layer or any(flag not in (0, 1) for flag in flags):
                self.fail(f"{key} is not one flag for each of {n_layer} layers")
            return tuple(bool(flag) for flag in flags)
        period = self._integer(key, value, period, 0, MAX_SIZE)
        return tuple(period == 0 or (layer + (not first)) % period != 0 for layer in range(n_layer))

    def _value(self, key: str) -> object:
        self.asked.add(key)
        return self._gguf.metadata.get(f"{self.architecture}.{key}")

    def _each(self, key: str, n_layer: int, check: Callable[[object], T]) -> tuple[T, ...]:
        value = self._value(key)
        if not isinstance(value, np.ndarray):
            return (check(value),) * n_layer
        if len(value) < n_layer:
            self.fail(f"{key} has {len(value)} entries for {n_layer} layers")
        return tuple(check(one) for one in value.tolist()[:n_layer])

    def _integer(self, key: str, value: object, default: int | None, low: int, high: int) -> int:
        if value is None:
            if default is None:
                self.fail(f"{key} is missing: the file does not describe a model")
            value = default
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(f"{key} is not an integer")
        if not low <= value <= high:
            self.fail(f"{key} is {value}, outside {low} to {high}")
        return value

    def _number(self, key: str, value: object, default: float | None, low: float, high: float) -> float:
        value = default if value is None else value
        if value is None:
            self.fail(f"{key} is missing: the file does not describe a model")
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(f"{key} is not a number")
        if not low <= value <= high:
            self.fail(f"{key} is {value}, which makes no sense")
        return float(value)

    def _one_for_all_layers(self, key: str, values: list[object]) -> object:
        if not values or any(value != values[0] for value in values):
            self.fail(f"{key} differs from layer to layer: not supported")
        return values[0]
