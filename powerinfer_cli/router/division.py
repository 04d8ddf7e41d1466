"""How several models divide GPU memory: so that a token of each takes the least time together."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["STEPS", "WEIGHED", "Curve", "division"]

WEIGHED = "POWERINFER_WEIGHED"  # the variable by which a router asks a model's server for its curve, and no more
STEPS = 16
"""Parts of a budget that a model gets some of."""

Curve = Sequence[float]
"""Seconds that a model needs for a token with 0, 1, ... STEPS of them, as the planner predicts."""


def division(curves: Sequence[Curve]) -> list[int]:
    """Parts of each model: the least sum of seconds, as if all were asked equally often; of equal ones the fewest.

    A multiple-choice knapsack, solved exactly by the number of parts that are left.
    """
    best = [_Choice()] * (STEPS + 1)  # by how many parts those so far may have
    for curve in curves:
        best = [min(best[room - n].also(n, curve[n]) for n in range(room + 1)) for room in range(STEPS + 1)]
    return list(best[STEPS].parts)


@dataclass(frozen=True, order=True)
class _Choice:
    """Compared by time, then by parts in all."""

    seconds: float = 0.0
    n: int = 0
    parts: tuple[int, ...] = ()

    def also(self, n: int, seconds: float) -> "_Choice":
        """For one more model."""
        return _Choice(self.seconds + seconds, self.n + n, (*self.parts, n))
