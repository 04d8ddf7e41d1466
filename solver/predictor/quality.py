"""What predictors cost: perplexity with them against that with every neuron, on documents they were not made from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from powerinfer_cli.runtime import Engine, LoadEvents
from powerinfer_cli.runtime.perplexity import Score, chunk_losses, ratio
from solver.profile import first_scored

__all__ = ["Quality", "compare", "score"]


@dataclass(frozen=True)
class Quality:
    """Perplexities, and `loss`: by what share the second is higher, with its standard error.

    predicted and active: shares of neurons let through, and of those that were not 0 when computed.
    """

    dense: float
    sparse: float
    loss: float
    error: float
    predicted: float | None
    active: float | None
    tokens: int


def score(engine: Engine, chunks: Sequence[Sequence[int]], what: str, events: LoadEvents) -> Score:
    """Losses of chunks, but for their first tokens."""
    found = Score()
    for number, chunk in enumerate(chunks):
        found.add(chunk_losses(engine, chunk, lambda: None, first=first_scored(chunk)))
        events.progress(what, number + 1, len(chunks))
    return found


def compare(dense: Score, sparse: Score, engine: Engine) -> Quality:
    """`engine`: that of the second score."""
    stats, value = engine.stats, ratio(sparse, dense)[0]
    shares = stats.mean_predicted, stats.mean_active
    return Quality(
        dense.perplexity, sparse.perplexity, value - 1, value * _error(dense, sparse), *shares, len(sparse.all)
    )


def _error(dense: Score, sparse: Score) -> float:
    """The standard error of the mean difference: tokens of a chunk err together, chunks are taken as independent."""
    chunks = [one - other for one, other in zip(sparse.values, dense.values, strict=True)]
    if len(chunks) < 2:
        return ratio(sparse, dense)[1] / ratio(sparse, dense)[0]
    tokens = sum(map(len, chunks))
    mean = sum(chunk.sum() for chunk in chunks) / tokens
    squares = sum((chunk.sum() - len(chunk) * mean) ** 2 for chunk in chunks)
    return math.sqrt(squares * len(chunks) / (len(chunks) - 1)) / tokens
