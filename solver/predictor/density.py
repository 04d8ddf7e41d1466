"""How sparse a SiLU or GELU model may be: its perplexity with the largest neurons only, by the plain engine."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from powerinfer_cli.model import Model
from powerinfer_cli.runtime import EngineOptions, LoadEvents, SparsityStats
from powerinfer_cli.runtime.backend import Parts
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.pages import Extent, PageTable
from powerinfer_cli.runtime.perplexity import Floats, Score, losses, ratio
from powerinfer_cli.runtime.reference.backend import ReferenceBackend
from solver.profile import largest

__all__ = ["STEPS", "DensityChoice", "DensityMeter", "find_density"]

STEPS = 20  # densities that are tried are multiples of 1 / STEPS


@dataclass(frozen=True)
class DensityChoice:
    """The density found, its loss (perplexity over the dense model's, less 1), and what was measured on the way."""

    density: float
    loss: float
    measured: tuple[tuple[float, float], ...]  # density, loss; by density


class DensityMeter:
    """Measures a model on held-out chunks, with the neurons left out that are not among the largest."""

    def __init__(self, model: Model, chunks: Sequence[Sequence[int]], n_threads: int | None = None) -> None:
        n_ctx = max(map(len, chunks))
        options = EngineOptions(n_ctx=n_ctx, n_threads=n_threads, reference=True, all_active=True)
        pages = PageTable(Extent(n_ctx))
        pages.resize(0, n_ctx)
        parts = Parts(model, options, SparsityStats(), None, pages, LoadEvents())
        self._backend = ReferenceBackend(parts)
        self._chunks = chunks
        self._dense = self._score(1.0)

    @property
    def perplexity(self) -> float:
        """With all neurons."""
        return self._dense.perplexity

    def loss(self, density: float) -> float:
        """By what share perplexity is higher when of each layer's neurons only the largest take part."""
        return ratio(self._score(density), self._dense)[0] - 1

    def _score(self, density: float) -> Score:
        score = Score()
        for chunk in self._chunks:
            score.add(self._losses(chunk, density))
        return score

    def _losses(self, chunk: Sequence[int], density: float) -> Floats:
        """Of the tokens behind the first of the second half, as in `runtime.perplexity`."""
        batch = Batch.of([(0, chunk, 0)])
        if density >= 1:
            self._backend.forward(batch)
        else:
            self._backend.forward_changed(batch, lambda values: values * largest(values, density))
        first = len(chunk) // 2
        return losses(self._backend.logits_at(range(first, len(chunk) - 1)), chunk[first + 1 :])


def find_density(meter: DensityMeter, most_loss: float, events: LoadEvents) -> DensityChoice:
    """The lowest density whose loss is at most `most_loss`, by halving: a loss falls as the density rises."""
    found: dict[float, float] = {1.0: 0.0}
    low, high = 0, STEPS  # low is too sparse, high is not
    most = int(np.ceil(np.log2(STEPS)))
    while high - low > 1:
        middle = (low + high) // 2
        density = middle / STEPS
        found[density] = meter.loss(density)
        events.note(f"density {density:.0%}: perplexity {found[density]:+.2%}")
        low, high = (low, middle) if found[density] <= most_loss else (middle, high)
        events.progress("measuring densities", min(len(found) - 1, most), most)
    density = high / STEPS
    return DensityChoice(density, found[density], tuple(sorted(found.items())))
