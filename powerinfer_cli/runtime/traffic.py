"""How many bytes a token needs from memory, counted from the model: what decoding cannot do with less than."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType, Tensor
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import (
    Everything,
    Neurons,
    Predicted,
    Routed,
    attentions,
    latent_attentions,
    leaves,
    shared_attentions,
)
from powerinfer_cli.runtime.context.states import state_bytes

__all__ = ["Traffic", "count_traffic"]

Shares: TypeAlias = float | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """Bytes. `always`: read for every token. `gate`, `neurons`: by layer, if every neuron were active; 0 where all are
    read anyway.
    """

    always: int
    gate: tuple[int, ...]  # rows that are read of a neuron once it is predicted active
    neurons: tuple[int, ...]  # the other rows, which are read once it has fired
    # Keys and values of one position, in layers that see so many; None: all.
    position: Mapping[int | None, int]

    def per_token(self, positions: float, predicted: Shares = 1.0, fired: Shares = 1.0) -> float:
        """With so many positions attended to, and these shares (0..1) of the neurons predicted active, and non-zero: of
        each layer, or of all.
        """
        seen = {window: positions if window is None else min(positions, window) for window in self.position}
        cached = sum(seen[window] * n for window, n in self.position.items())
        rows = np.dot(*np.broadcast_arrays(predicted, self.gate)) + np.dot(*np.broadcast_arrays(fired, self.neurons))
        return self.always + cached + float(rows)


def count_traffic(model: Model, type_k: str, type_v: str, asked: Sequence[int]) -> Traffic:
    """Count a model's bytes, in the types of its file. `asked`: neurons per layer that the predictor is asked about.

    Every matrix counts once, but of the embedding one row is read, and of a sparse FFN the rows of active neurons.
    Without a gate (opt, falcon), the up matrix takes its place. All of it is read where zeros are exact and nobody
    predicts. Of experts, as many as are chosen, the router and the shared one.
    """
    always = sum(table.row_bytes for table in model.embedding.tables) + _size(*leaves(model.head))
    if model.embedding.inputs is not None:
        always += _size(*leaves(model.embedding.inputs)) - model.embedding.inputs.tokens.nbytes
    gate, neurons = [], []
    for layer, n_asked in zip(model.layers, asked, strict=True):
        always += _size(*leaves(layer)) - _size(*leaves(layer.ffn))
        rows, selection = layer.ffn.neurons, layer.ffn.selection
        whole, first = _size(*leaves(rows)), _first(rows)
        match selection:
            case Everything():
                read = first if rows.transposed and rows.activation.has_exact_zeros else whole
                always += read
                gate.append(0)
                neurons.append(whole - read)
            case Predicted():
                always += selection.fc1.nbytes + n_asked * selection.fc2.row_bytes
                gate.append(first)
                neurons.append(whole - first)
            case Routed():
                always += _size(*leaves(selection))
                always += whole * selection.router.n_chosen // selection.n_experts
                gate.append(0)
                neurons.append(0)
            case _:
                assert_never(selection)
    always += 2 * state_bytes(model.layers)  # read and written
    position: Counter[int | None] = Counter()
    heads = [(one.window, one.n_kv) for one in attentions(model.layers)]
    heads += [(one.window, one.n_head_source * one.head_dim) for one in shared_attentions(model.layers)]
    for window, n in [*heads, *((None, one.n_kv) for one in latent_attentions(model.layers))]:
        position[window] += _row_bytes(n, type_k) + _row_bytes(n, type_v)
    return Traffic(always, tuple(gate), tuple(neurons), position)


def _first(rows: Neurons[Tensor, Tensor]) -> int:
    """Of the gate, or of what stands for it."""
    first = rows.up if rows.gate is None else rows.gate
    return _size(*leaves(first))


def _size(matrices: Sequence[Tensor], vectors: Sequence[Tensor]) -> int:
    return sum(one.nbytes for one in (*matrices, *vectors))


def _row_bytes(n: int, cache_type: str) -> int:
    block_size, block_bytes = BLOCK[GGMLType[cache_type.upper()]]
    return -(-n // block_size) * block_bytes
