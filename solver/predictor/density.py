"""How sparse a SiLU or GELU model may be: its perplexity with the largest neurons only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.runtime import Engine, LoadEvents
from powerinfer_cli.runtime.perplexity import Score, chunk_losses, ratio
from solver.profile import ActiveRule, first_scored

__all__ = ["STEPS", "DensityChoice", "DensityMeter", "find_density"]

STEPS = 20  # densities that are tried are multiples of 1 / STEPS


@dataclass(frozen=True)
class DensityChoice:
    """The density found, its loss (perplexity over the dense model's, less 1), and what was measured on the way."""

    density: float
    loss: float
    measured: tuple[tuple[float, float], ...]  # density, loss; by density


def _forget(_: Mapping[float, float]) -> None:
    pass


class DensityMeter:
    """Measures a model on held-out chunks, with the neurons left out that are not among the largest."""

    def __init__(self, engine: Engine, chunks: Sequence[Sequence[int]]) -> None:
        """engine: with every neuron."""
        self._engine, self._chunks = engine, chunks
        self._dense = self._score(1.0)

    @property
    def perplexity(self) -> float:
        """With all neurons."""
        return self._dense.perplexity

    def loss(self, density: float) -> float:
        """By what share perplexity is higher when of each layer's neurons only the largest take part."""
        return ratio(self._score(density), self._dense)[0] - 1

    def _score(self, density: float) -> Score:
        rule, score = ActiveRule(density), Score()

        def change(_: int, activations: npt.NDArray[np.float32]) -> None:
            rule.apply(activations)

        for chunk in self._chunks:
            changed = None if density == 1 else change
            score.add(chunk_losses(self._engine, chunk, lambda: None, changed, first_scored(chunk)))
        return score


def find_density(
    meter: DensityMeter,
    most_loss: float,
    events: LoadEvents,
    known: Mapping[float, float] | None = None,
    keep: Callable[[Mapping[float, float]], None] = _forget,
) -> DensityChoice:
    """The lowest density whose loss is at most `most_loss`, by halving: a loss falls as the density rises.

    known: losses by density that were measured before; `keep` is told of all after each.
    """
    found: dict[float, float] = {1.0: 0.0}
    known = known or {}
    low, high = 0, STEPS  # low is too sparse, high is not
    most = int(np.ceil(np.log2(STEPS)))
    events.progress("measuring densities", 0, most)
    while high - low > 1:
        middle = (low + high) // 2
        density = middle / STEPS
        found[density] = known[density] if density in known else meter.loss(density)
        keep(found)
        events.note(f"density {density:.0%}: perplexity {found[density]:+.2%}")
        low, high = (low, middle) if found[density] <= most_loss else (middle, high)
        events.progress("measuring densities", min(len(found) - 1, most), most)
    density = high / STEPS
    return DensityChoice(density, found[density], tuple(sorted(found.items())))
