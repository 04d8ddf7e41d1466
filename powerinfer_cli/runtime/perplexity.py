"""Perplexity of a text by llama.cpp's definition: chunks, of each the second half scored."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from powerinfer_cli.runtime.engine import Change, Engine

__all__ = ["Floats", "Score", "chunk_losses", "chunks", "losses", "ratio"]

Floats = npt.NDArray[np.float64]

ROWS = 256  # tokens whose logits are in memory at a time
AT_ONCE = 16  # of these, what a core's cache holds


@dataclass
class Score:
    """Losses (negative log-likelihoods) of the tokens scored so far."""

    values: list[Floats] = field(default_factory=list)

    def add(self, values: Floats) -> None:
        self.values.append(values)

    @property
    def all(self) -> Floats:
        return np.concatenate(self.values)

    @property
    def perplexity(self) -> float:
        """exp of the mean loss."""
        return _exp(float(self.all.mean()))

    @property
    def error(self) -> float:
        """Of the perplexity: the mean's standard error, times the perplexity."""
        return _standard_error(self.all) * self.perplexity


def ratio(one: Score, other: Score) -> tuple[float, float]:
    """One perplexity over the other, of the same tokens, and its error: the tokens' differences vary much less."""
    difference = one.all - other.all
    value = _exp(float(difference.mean()))
    return value, _standard_error(difference) * value


def _standard_error(values: Floats) -> float:
    return float(np.sqrt(values.var() / (values.size - 1))) if values.size > 1 else 0.0


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def losses(logits: npt.NDArray[np.float32], targets: Sequence[int]) -> Floats:
    """logits [T, n_vocab], targets [T] -> -log softmax(logits)[target], [T]"""
    found = np.empty(len(logits))
    for start in range(0, len(logits), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        shifted = logits[part] - logits[part].max(axis=1, keepdims=True)
        chosen = shifted[np.arange(len(shifted)), targets[part]].astype(np.float64)
        found[part] = np.log(np.exp(shifted, out=shifted).sum(axis=1, dtype=np.float64)) - chosen
    return found


def chunks(ids: Sequence[int], n_ctx: int, bos: int | None) -> Iterator[list[int]]:
    """Whole chunks of a text; the first token of each gives its place to `bos`, where there is one."""
    for start in range(0, len(ids) - n_ctx + 1, n_ctx):
        chunk = list(ids[start : start + n_ctx])
        yield chunk if bos is None else [bos, *chunk[1:]]


def chunk_losses(
    engine: Engine,
    chunk: Sequence[int],
    check: Callable[[], None],
    change: Change | None = None,
    first: int | None = None,
) -> Floats:
    """Losses of the tokens behind number `first`, None: the first of the chunk's second half. `check` is called between
    batches. change: as in `Engine.prefill`.
    """
    first = len(chunk) // 2 if first is None else first
    engine.reset()
    engine.prefill(chunk[:first], on_batch=lambda done, total: check(), change=change)
    found = []
    for start in range(first, len(chunk) - 1, ROWS):
        part = chunk[start : min(start + ROWS, len(chunk) - 1)]
        found.append(losses(engine.logits(part, change), chunk[start + 1 : start + 1 + len(part)]))
        check()
    return np.concatenate(found)
