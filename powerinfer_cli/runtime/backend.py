"""What an engine needs of whatever does its arithmetic."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Backend", "Logits"]

Logits: TypeAlias = npt.NDArray[np.float32]


class Backend(Protocol):
    """One model's layers and one KV cache."""

    n_ctx: int

    def forward(self, ids: Sequence[int], n_past: int) -> None:
        """Evaluate tokens behind the first n_past of the context."""

    def last_logits(self) -> Logits:
        """The logits [n_vocab] that follow the last token of the last `forward`."""

    def all_logits(self) -> Logits:
        """The logits [T, n_vocab] that follow each token of the last `forward`."""

    def shift(self, n_past: int, n_keep: int, n_discard: int) -> bool:
        """Drop positions [n_keep, n_keep + n_discard) and move the rest down. False: it cannot; evaluate them anew."""
