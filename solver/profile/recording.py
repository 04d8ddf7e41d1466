"""Running a text through a model, chunk by chunk, for those who want to see what its layers do."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import ModelConfig
from solver.profile.text import Chunks

__all__ = ["Recordable", "Watcher", "check_numbers", "record"]

Floats: TypeAlias = npt.NDArray[np.float32]


class Recordable(Protocol):
    """An engine."""

    @property
    def config(self) -> ModelConfig: ...

    def record(self, ids: Sequence[int], tap: Callable[[int, Floats, Floats], None]) -> None:
        """Evaluate ids from an empty context; tap(layer, residual [T, n_embd], activations [T, n_ff]) for a batch."""


class Watcher(Protocol):
    """Who sees what is recorded for somebody else."""

    def see(self, number: int, within: int, layer: int, residual: Floats, activations: Floats) -> None:
        """number: the chunk's; within: the first token's in it."""

    def done(self, number: int) -> None:
        """A chunk is whole."""


def check_numbers(first: int, layer: int, residual: Floats, activations: Floats) -> None:
    """residual, activations: of the same tokens, the first of which has the number `first`; ReLU makes zeros of what is
    no number in a residual. Raises PowerInferError: some are no numbers.
    """
    for row in np.flatnonzero(~np.isfinite(activations.sum(axis=1) + residual.sum(axis=1))):
        if not (np.isfinite(activations[row]).all() and np.isfinite(residual[row]).all()):
            raise PowerInferError(
                f"layer {layer}, token {first + row} of the text: activations that are no numbers: the file is damaged"
            )


def record(
    engine: Recordable,
    chunks: Chunks,
    first: int,
    see: Callable[[int, int, Floats, Floats], None],
    done: Callable[[int], None],
) -> None:
    """Record chunks from number `first` on. see(first token, layer, residual, activations); done(chunks so far).

    Tokens are counted over the whole text. Raises PowerInferError: activations that are no numbers.
    """
    last_layer = engine.config.n_layer - 1
    for number in range(first, len(chunks)):
        at = sum(map(len, chunks[:number]))

        def tap(layer: int, residual: Floats, activations: Floats) -> None:
            nonlocal at
            check_numbers(at, layer, residual, activations)
            see(at, layer, residual, activations)
            if layer == last_layer:
                at += len(residual)

        engine.record(chunks[number], tap)
        done(number + 1)
