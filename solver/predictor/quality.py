"""What predictors cost: perplexity with them against that with every neuron, on documents they were not made from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import make_folder, replacing
from powerinfer_cli.number_files import load_arrays
from powerinfer_cli.runtime import Engine, LoadEvents
from powerinfer_cli.runtime.perplexity import Floats, Score, chunk_losses, ratio
from solver.profile import first_scored

__all__ = ["KeptLosses", "Quality", "compare", "score"]

MOST_BYTES = 16 << 20  # of a file of losses


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


@dataclass(frozen=True)
class KeptLosses:
    """Losses of chunks in a file, by what they are of: those that an interrupted measurement has left."""

    path: Path
    key: str

    def load(self) -> list[Floats]:
        """By chunk; none, where the file is of something else."""
        try:
            file = load_arrays(self.path, ("key", "losses", "lengths"), MOST_BYTES, "losses")
        except PowerInferError:
            return []
        key, losses, lengths = file.values()
        whole = losses.ndim == lengths.ndim == 1 and losses.dtype == np.float64 and lengths.dtype.kind == "i"
        if str(key) != self.key or not whole or (lengths < 1).any() or lengths.sum() != losses.size:
            return []
        return np.split(losses, np.cumsum(lengths)[:-1]) if lengths.size else []

    def save(self, found: Sequence[Floats]) -> None:
        """Raises PowerInferError."""
        if not found:
            return
        make_folder(self.path.parent)
        lengths = np.array([len(one) for one in found])
        with replacing(self.path) as temporary, temporary.open("wb") as out:
            np.savez(out, key=np.array(self.key), losses=np.concatenate(found), lengths=lengths)


def score(
    engine: Engine, chunks: Sequence[Sequence[int]], what: str, events: LoadEvents, kept: KeptLosses | None = None
) -> Score:
    """Losses of chunks, but for their first tokens. kept: where they are when this is interrupted, and once it is done;
    what is there already is not measured again.
    """
    found = Score(kept.load()[: len(chunks)] if kept else [])
    try:
        for number in range(len(found.values), len(chunks)):
            found.add(chunk_losses(engine, chunks[number], lambda: None, first=first_scored(chunks[number])))
            events.progress(what, number + 1, len(chunks))
    finally:  # Ctrl-C too
        if kept:
            kept.save(found.values)
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
