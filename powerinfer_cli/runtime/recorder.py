"""An engine's side that shows what passes through its layers, for profiling."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime.backend import Backend, Floats, InputsBackend
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.sequences import Sequences
from powerinfer_cli.runtime.context.states import States

__all__ = ["InputsTap", "Recorder", "RouteTap", "Tap", "batched"]

Tap: TypeAlias = Callable[[int, Floats, Floats], None]  # layer, residual [T, n_embd], activations [T, n_ff]

RouteTap: TypeAlias = Callable[[int, npt.NDArray[np.signedinteger[Any]]], None]  # layer, chosen experts [T, n_chosen]
# a matrix's name, sums of squared inputs [n_experts or 1, n_cols], of how many tokens [n_experts or 1]
InputsTap: TypeAlias = Callable[[str, Floats, npt.NDArray[np.int64]], None]


class Recorder(ABC):
    """What it needs of the engine it is a part of. _matrices: their names, by layer."""

    _backend: Backend
    _sequences: Sequences
    _states: States | None
    has_experts: bool
    _matrices: list[list[str]]

    @property
    @abstractmethod
    def most_tokens(self) -> int:
        """Of a batch."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all sequences."""

    def record(self, ids: Sequence[int], tap: Tap) -> None:
        """Evaluate ids from an empty context, with every neuron computed, and show what passes through the layers.

        `tap(layer, residual, activations)` is called for each layer of each batch, layers in order: residual
        [T, n_embd] is what a predictor looks at; activations [T, n_ff] is what meets the down matrix: act(gate) * up,
        or act(up) where there is no gate. Both are float32, read-only, and valid during the call only. The context
        is empty before and after; `stats` counts nothing.

        Raises:
            ContextFull: the context has no room for them.
            PowerInferError: the model has experts.
        """
        self._check_recordable()
        self._show_batches(ids, lambda batch: self._backend.record(batch, partial(_show, tap)))

    def record_routes(self, ids: Sequence[int], tap: RouteTap) -> None:
        """Evaluate ids from an empty context, and show which experts their tokens need.

        `tap(layer, chosen)` is called for each layer with experts of each batch, layers in order: chosen [T, n_chosen]
        are each token's experts, ascending; valid during the call only. The context is empty before and after.

        Raises ContextFull: the context has no room for them.
        """
        self._show_batches(ids, lambda batch: self._backend.record_routes(batch, tap))

    def record_inputs(self, ids: Sequence[int], tap: InputsTap) -> None:
        """Evaluate ids from an empty context, and tell how large the numbers are that meet the matrices of its layers.

        `tap(name, sums, counts)` is called for each matrix of each batch: sums [n_experts or 1, n_cols] of squares,
        over so many tokens [n_experts or 1]; valid during the call only. The context is empty before and after.

        Raises:
            ContextFull: the context has no room for them.
            PowerInferError: the model is not computed by the CPU's kernels alone.
        """
        backend, names = self._backend, self._matrices
        if not isinstance(backend, InputsBackend):
            raise PowerInferError("inputs of matrices are recorded on the CPU: leave out --reference and GPUs")
        self._show_batches(ids, lambda batch: backend.record_inputs(batch, lambda i, j, *of: tap(names[i][j], *of)))

    def _show_batches(self, ids: Sequence[int], show: Callable[[Batch], None]) -> None:
        """Evaluate ids from an empty context, which is empty again afterwards."""
        self.reset()
        self._sequences.check([(0, ids)])
        try:
            for part in batched(ids, self.most_tokens):
                batch = self._sequences.batch([(0, part)])
                if self._states is not None:
                    self._states.enter(batch)
                show(batch)
                self._sequences.note([(0, part)])
                if self._states is not None:
                    self._states.leave(batch)
        finally:
            self.reset()

    def _check_recordable(self) -> None:
        if self.has_experts:
            raise PowerInferError("single neurons of a mixture's experts are not recorded: its experts are, as a whole")


def _show(tap: Tap, layer: int, residual: Floats, activations: Floats) -> None:
    views = residual.view(), activations.view()
    for view in views:
        view.flags.writeable = False
    tap(layer, *views)


def batched(ids: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """ids, so many at a time; of several none alone, for sizes from 3 on: it would be computed in another way."""
    starts = list(range(0, len(ids), size))
    if len(starts) > 1 and size > 2 and len(ids) % size == 1:
        starts[-1] -= 1
    return (ids[start:end] for start, end in pairwise([*starts, len(ids)]))
