"""The end of solving: how fast the dense and the sparse model really decode, and which of them to run."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from powerinfer_cli.model import Model
from powerinfer_cli.placement import ActivationStatistics, Placement
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from powerinfer_cli.system.memory import return_memory
from solver.decoding import Decoding, compare_decoding, faster, measure_decoding
from solver.predictor import Quality

__all__ = ["COMPARING", "Comparison", "Runnable", "compare_models"]

COMPARING = "comparing dense and sparse"
SECONDS = 4.0  # of decoding, each
BOTH = 256 << 20  # bytes of weights up to which both models are in memory at once: less than solve may take besides one
CONTEXT = 512


@dataclass(frozen=True)
class Runnable:
    """A model as it would be run."""

    model: Model
    options: EngineOptions
    statistics: ActivationStatistics | None = None
    placement: Placement | None = None

    def open(self, events: LoadEvents) -> Engine:
        return Engine(self.model, self.options, self.statistics, LoadEvents(progress=events.progress), self.placement)


@dataclass(frozen=True)
class Comparison:
    """dense, sparse: measured. predicted: tokens a second of the sparse one, by the plan. quality: on held-out text,
    None where nothing was trained. most_loss: that is allowed.
    """

    dense: Decoding
    sparse: Decoding
    predicted: float | None
    quality: Quality | None
    most_loss: float

    @property
    def ratio(self) -> float:
        """Tokens a second, sparse over dense."""
        return self.dense.seconds / self.sparse.seconds

    @property
    def good(self) -> bool:
        """Whether the sparse model's loss is allowed."""
        return self.quality is None or self.quality.loss <= self.most_loss

    @property
    def sparse_wins(self) -> bool:
        return self.good and self.ratio > 1

    def line(self) -> str:
        """For people, without what to run."""
        quality = self.quality
        parts = [
            f"measured: dense {self.dense.tokens_per_second:,.1f} tokens/s, sparse "
            f"{self.sparse.tokens_per_second:,.1f} ({self.ratio:.2f}x"
            + (f"; predicted {self.predicted:,.1f})" if self.predicted else ")")
        ]
        if quality is not None:
            parts.append(
                f"perplexity {quality.loss:+.1%} +/- {quality.error:.1%} on {quality.tokens:,} held-out tokens"
                + ("" if self.good else f", more than the {self.most_loss:.0%} that are allowed")
            )
        return "; ".join(parts)


def compare_models(
    dense: Runnable, sparse: Runnable, ids: Sequence[int], events: LoadEvents
) -> tuple[Decoding, Decoding]:
    """Decode with both, in alternation; large models one after the other, each twice, of which the faster counts.

    ids: a text.
    """

    def on_round(done: int, total: int) -> None:
        events.progress(COMPARING, done, total)

    if max(dense.model.nbytes, sparse.model.nbytes) <= BOTH:
        with closing(dense.open(events)) as one, closing(sparse.open(events)) as other:
            first, second = compare_decoding([one, other], ids, SECONDS, on_round)
            return first, second
    found: list[Decoding] = []
    for number, which in enumerate((dense, sparse) * 2):
        found.append(_alone(which, ids, events))
        on_round(number + 1, 4)
    first, second = (faster(*found[which::2]) for which in range(2))
    return first, second


def _alone(which: Runnable, ids: Sequence[int], events: LoadEvents) -> Decoding:
    """Nothing of it is in memory afterwards."""
    with closing(which.open(events)) as engine:
        found = measure_decoding(engine, ids, SECONDS)
    del engine
    return_memory()
    return found
