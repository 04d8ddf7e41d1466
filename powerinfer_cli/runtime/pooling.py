"""Vectors of a text's tokens, pooled as they come: all of them would be megabytes for each text of a request."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Pool"]

Vectors = npt.NDArray[np.floating[Any]]


class Pool:
    """By "none" (all are kept), "mean" (float64), "cls" (the first) or "last"."""

    def __init__(self, pooling: str) -> None:
        self._pooling = pooling
        self.clear()

    def clear(self) -> None:
        """As if nothing had come."""
        self._rows: list[Vectors] = []
        self._n = 0

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        """The next tokens' [T, n_embd], which may change afterwards."""
        if self._pooling == "mean":
            # One after the other, so that the sum does not depend on where a text was cut.
            parts = [*self._rows, rows.astype(np.float64)]
            self._rows = [np.add.reduce(np.concatenate(parts), axis=0, keepdims=True)]
        elif self._pooling == "cls":
            self._rows = self._rows or [rows[:1].copy()]
        elif self._pooling == "last":
            self._rows = [rows[-1:].copy()]
        elif self._pooling == "none":
            self._rows.append(rows.astype(np.float32))
        else:
            raise ValueError(f"no pooling {self._pooling!r}")
        self._n += len(rows)

    @property
    def result(self) -> Vectors:
        """[T, n_embd] without pooling, else [1, n_embd]. Something must have come."""
        if self._pooling == "mean":
            return self._rows[0] / self._n
        return np.concatenate(self._rows)
