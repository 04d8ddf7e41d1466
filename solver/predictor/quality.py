"""What predictors cost: perplexity with them against that with every neuron, on text they were not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

from powerinfer_cli.runtime import Engine, LoadEvents
from powerinfer_cli.runtime.perplexity import Score, chunk_losses, ratio

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
    """Losses of the second halves of chunks."""
    found = Score()
    for number, chunk in enumerate(chunks):
        found.add(chunk_losses(engine, chunk, lambda: None))
        events.progress(what, number + 1, len(chunks))
    return found


def compare(dense: Score, sparse: Score, engine: Engine) -> Quality:
    """`engine`: that of the second score."""
    value, error = ratio(sparse, dense)
    stats = engine.stats
    tokens = len(sparse.all)
    return Quality(
        dense.perplexity, sparse.perplexity, value - 1, error, stats.mean_predicted, stats.mean_active, tokens
    )
