"""What an engine needs of whatever does its arithmetic."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.model import ModelConfig, Weights
from powerinfer_cli.placement import ActivationStatistics
from powerinfer_cli.runtime.options import EngineOptions, LoadEvents
from powerinfer_cli.runtime.stats import SparsityStats

__all__ = ["Backend", "Logits", "Parts", "Tap"]

Logits: TypeAlias = npt.NDArray[np.float32]

# Takes (layer, residual [T, n_embd], activations [T, n_ff]), float32 and read-only, valid during the call only.
Tap: TypeAlias = Callable[[int, npt.NDArray[np.float32], npt.NDArray[np.float32]], None]


@dataclass(frozen=True)
class Parts:
    """What a backend is made of. `stats`: where it counts neurons; `n_ctx`: positions of its KV cache."""

    config: ModelConfig
    weights: Weights
    options: EngineOptions
    stats: SparsityStats
    statistics: ActivationStatistics | None
    n_ctx: int
    events: LoadEvents


class Backend(Protocol):
    """One model's layers and one KV cache."""

    n_ctx: int

    def forward(self, ids: Sequence[int], n_past: int) -> None:
        """Evaluate tokens behind the first n_past of the context."""

    def record(self, ids: Sequence[int], n_past: int, tap: Tap) -> None:
        """As `forward`, with every neuron computed and nothing counted; `tap` is called after each layer, in order."""

    def last_logits(self) -> Logits:
        """The logits [n_vocab] that follow the last token of the last `forward`."""

    def all_logits(self) -> Logits:
        """The logits [T, n_vocab] that follow each token of the last `forward`."""

    def shift(self, n_past: int, n_keep: int, n_discard: int) -> bool:
        """Drop positions [n_keep, n_keep + n_discard) and move the rest down. False: it cannot; evaluate them anew."""

    def use_threads(self, options: EngineOptions) -> None:
        """Compute with as many threads as these options say from now on; nothing else of them counts."""
