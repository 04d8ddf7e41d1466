"""How many neurons took part."""

from dataclasses import dataclass

__all__ = ["SparsityStats"]


@dataclass
class SparsityStats:
    """Counts over all sparse layers and tokens since the last reset: neurons there, predicted active, and non-zero."""

    total: int = 0
    predicted: int = 0
    fired: int = 0

    def add(self, total: int, predicted: int, fired: int) -> None:
        self.total += total
        self.predicted += predicted
        self.fired += fired

    def reset(self) -> None:
        self.total = self.predicted = self.fired = 0

    @property
    def mean_active(self) -> float | None:
        """Share of neurons that were non-zero, 0..1; None where nothing sparse has run."""
        return self.fired / self.total if self.total else None

    @property
    def mean_predicted(self) -> float | None:
        """Share of neurons that the predictor let through, 0..1; None where nothing sparse has run."""
        return self.predicted / self.total if self.total else None
