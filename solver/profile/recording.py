"""Running a text through a model, chunk by chunk, for those who want to see what its layers do."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import ModelConfig

__all__ = ["CHUNK", "Chunks", "Recordable", "chunks_of", "held_out", "record"]

CHUNK = 512  # tokens, if the context has room for them
HELD_EVERY = 8  # of so many chunks one is kept from training

Floats: TypeAlias = npt.NDArray[np.float32]
Chunks: TypeAlias = Sequence[Sequence[int]]


class Recordable(Protocol):
    """An engine."""

    @property
    def config(self) -> ModelConfig: ...

    def record(self, ids: Sequence[int], tap: Callable[[int, Floats, Floats], None]) -> None:
        """Evaluate ids from an empty context; tap(layer, residual [T, n_embd], activations [T, n_ff]) for a batch."""


def chunks_of(ids: Sequence[int], n_ctx: int, bos: int | None) -> list[list[int]]:
    """Whole chunks of a text; the first token of each gives its place to `bos`, where there is one.

    Raises:
        PowerInferError: the text is shorter than one chunk.
    """
    length = min(CHUNK, n_ctx)
    if len(ids) < length:
        raise PowerInferError(f"the text has {len(ids)} tokens, but one chunk has {length}: give a longer text")
    starts = range(0, len(ids) - length + 1, length)
    cut = [list(ids[start : start + length]) for start in starts]
    return cut if bos is None else [[bos, *chunk[1:]] for chunk in cut]


def held_out(chunks: Chunks) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """Chunks to train on, and those kept from it to measure the result: from all parts of the text.

    Of a text of one chunk both are that chunk.
    """
    if len(chunks) == 1:
        return list(chunks), list(chunks)
    every = min(HELD_EVERY, len(chunks))
    held = [chunk for i, chunk in enumerate(chunks) if i % every == every - 1]
    return [chunk for i, chunk in enumerate(chunks) if i % every != every - 1], held


def record(
    engine: Recordable,
    chunks: Chunks,
    first: int,
    see: Callable[[int, int, Floats, Floats], None],
    done: Callable[[int], None],
) -> None:
    """Record chunks from number `first` on. see(first token, layer, residual, activations); done(chunks so far).

    Tokens are counted over the whole text.
    """
    last_layer = engine.config.n_layer - 1
    for number in range(first, len(chunks)):
        at = sum(map(len, chunks[:number]))

        def tap(layer: int, residual: Floats, activations: Floats) -> None:
            nonlocal at
            see(at, layer, residual, activations)
            if layer == last_layer:
                at += len(residual)

        engine.record(chunks[number], tap)
        done(number + 1)
