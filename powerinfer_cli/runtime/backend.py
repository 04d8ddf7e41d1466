"""What an engine needs of whatever does its arithmetic."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.model import Model, ModelConfig
from powerinfer_cli.placement import ActivationStatistics
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.pages import Held, PageTable
from powerinfer_cli.runtime.options import EngineOptions, LoadEvents
from powerinfer_cli.runtime.stats import SparsityStats

__all__ = [
    "AskingBackend",
    "Backend",
    "Floats",
    "ForeseeingBackend",
    "Hidden",
    "InputsBackend",
    "Logits",
    "Parts",
    "Watch",
    "WatchInputs",
    "WatchRoutes",
]

Logits: TypeAlias = npt.NDArray[np.float32]
Hidden: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.float32]

# Takes (layer, residual [T, n_embd], activations [T, n_ff]), float32, valid during the call only. The down matrix meets
# what it leaves in activations.
Watch: TypeAlias = Callable[[int, Floats, Floats], None]
# Takes (layer, chosen experts [T, n_chosen], ascending), whole numbers, valid during the call only.
WatchRoutes: TypeAlias = Callable[[int, npt.NDArray[np.signedinteger[Any]]], None]
# Takes (layer, number of a matrix among the layer's `leaves`, sums of the squares of what met it [n_experts or 1,
# n_cols], of how many tokens [n_experts or 1]), valid during the call only.
WatchInputs: TypeAlias = Callable[[int, int, Floats, npt.NDArray[np.int64]], None]


@dataclass(frozen=True)
class Parts:
    """What a backend is made of. `stats`: where it counts neurons; `pages`: which cells of its KV cache are whose.
    packed: matrices that the CPU has in its layout already, by name.
    """

    model: Model
    options: EngineOptions
    stats: SparsityStats
    statistics: ActivationStatistics | None
    pages: PageTable
    events: LoadEvents
    packed: Mapping[str, WeightRows] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def counted_neurons(self) -> npt.NDArray[np.int64]:
        """[n_layer]: of layers that compute neuron by neuron; 0 of the others."""
        neurons = [layer.ffn.neurons for layer in self.model.layers]
        return np.array([one.n_ff if one.transposed else 0 for one in neurons], np.int64)

    @property
    def n_ctx(self) -> int:
        """Tokens that the KV cache has to hold."""
        return self.pages.n_ctx


class Backend(Protocol):
    """One model's layers and one KV cache, which several sequences share."""

    def forward(self, batch: Batch) -> None:
        """Evaluate tokens behind those that their sequences have already. Their pages are in the table."""

    def record(self, batch: Batch, watch: Watch) -> None:
        """As `forward`, with every neuron computed and nothing counted; `watch` is called in each layer, in order."""

    def record_routes(self, batch: Batch, watch: WatchRoutes) -> None:
        """As `forward`; `watch` is called in each layer that has experts, in order."""

    def hidden_at(self, rows: slice) -> Hidden:
        """The hidden states [n, n_embd], behind the last norm, of these tokens of the last `forward`."""

    def logits_at(self, rows: Sequence[int]) -> Logits:
        """The logits [len(rows), n_vocab] that follow these tokens, ascending, of the last `forward`; once for each."""

    def shift(self, sequence: int, n_past: int, n_keep: int, n_discard: int) -> bool:
        """Drop a sequence's positions [n_keep, n_keep + n_discard) and move the rest down, as the pages say; they stay
        as they are. False: it cannot; evaluate them anew.
        """

    def read_cells(self, held: Held) -> dict[str, npt.NDArray[Any]]:
        """What the KV cache holds in these cells, as it is stored: arrays [cells, ...] by layer and part."""

    def write_cells(self, held: Held, stored: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `read_cells` gave. Raises PowerInferError: it is not for such a cache."""

    def read_states(self, sequence: int) -> Mapping[int, npt.NDArray[np.float32]]:
        """A copy of what recurrent layers keep of a sequence: [numbers of its state], by layer."""

    def write_states(self, sequence: int, states: Mapping[int, npt.NDArray[np.float32]]) -> None:
        """Put back what `read_states` gave."""

    def packed_ends(self) -> Mapping[str, WeightRows]:
        """What `Parts.packed` may be of a model over the same embedding or head."""

    def use_threads(self, options: EngineOptions) -> None:
        """Compute with as many threads as these options say from now on; nothing else of them counts."""

    def experts(self) -> Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]]:
        """By layer of which a GPU has some experts, which those are now, and which the last token chose."""

    def close(self) -> None:
        """End its threads; it computes nothing any more."""


@runtime_checkable
class InputsBackend(Protocol):
    """One that can tell of what meets its matrices."""

    def record_inputs(self, batch: Batch, watch: WatchInputs) -> None:
        """As `forward`; `watch` is called for the matrices of each layer, layers in order."""


@runtime_checkable
class ForeseeingBackend(Protocol):
    """One that can do all that is to be done before a step's hidden states are there."""

    def foresee(self, batch: Batch) -> Callable[[Hidden], None]:
        """As `forward` of a batch whose `hidden` is given to what this finds, next of all."""


@runtime_checkable
class AskingBackend(Protocol):
    """One whose steps end elsewhere: it asks, goes on with other sequences, and is told later."""

    @property
    def n_groups(self) -> int:
        """So many steps, each of its own sequences, keep all busy that compute."""

    def ask_hidden(self, rows: slice) -> Callable[[], Hidden]:
        """As `hidden_at`, which waits until it is called, in any order and after other steps."""

    def ask_logits(self, rows: Sequence[int]) -> Callable[[], Logits]:
        """As `logits_at`, in the same way."""
