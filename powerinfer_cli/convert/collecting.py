"""An importance matrix from a text: how large the numbers are that meet each matrix, token by token."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from powerinfer_cli.convert.importance import Sums
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime import Engine

__all__ = ["Collection"]


class Collection:
    """By a matrix's name, what was collected so far."""

    def __init__(self) -> None:
        self.sums: dict[str, Sums] = {}
        self.n_chunks = 0

    def collect(self, engine: Engine, chunks: Iterable[Sequence[int]], on_chunk: Callable[[int], None]) -> None:
        """Evaluate chunks of a text, each from an empty context. `on_chunk(done)` may raise to end it: what is done
        stays.

        Raises PowerInferError: a number is not finite.
        """
        for chunk in chunks:
            found: dict[str, Sums] = {}
            engine.record_inputs(chunk, lambda *of, found=found: _add(found, *of))
            for name, one in found.items():  # a chunk counts as a whole or not at all
                if not np.isfinite(one.squares).all():
                    raise PowerInferError(f"{name} is met by numbers that are not finite: the file is damaged")
                _add(self.sums, name, one.squares, one.counts)
            self.n_chunks += 1
            on_chunk(self.n_chunks)


def _add(sums: dict[str, Sums], name: str, squares: npt.NDArray[np.floating], counts: npt.NDArray[np.int64]) -> None:
    if name not in sums:
        sums[name] = Sums.zeros(*squares.shape)
    sums[name].add(squares, counts)
