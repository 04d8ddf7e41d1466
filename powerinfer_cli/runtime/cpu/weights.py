"""A model's weights in the layout that CPU kernels read: the same blocks, over packed rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.kernels.cpu.experts.token import opens_ups
from powerinfer_cli.kernels.cpu.packing import bundles
from powerinfer_cli.kernels.cpu.rows import Bundled, WeightRows
from powerinfer_cli.kernels.cpu.sparse.asking import asked_neurons
from powerinfer_cli.kernels.formats import BUNDLE
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import (
    FFN,
    Attention,
    Everything,
    Head,
    Layer,
    Neurons,
    Predicted,
    Routed,
    Source,
    all_active,
    leaves,
    predictor_of,
    routing_of,
)
from powerinfer_cli.placement import MAIN_MEMORY, Plan, group_rows, ordered
from powerinfer_cli.placement import Neurons as Numbers
from powerinfer_cli.placement.statistics import ActivationStatistics
from powerinfer_cli.runtime.cpu.neuron_order import neuron_order
from powerinfer_cli.runtime.cpu.packer import Packer, first_rows
from powerinfer_cli.runtime.modes import modes_of
from powerinfer_cli.runtime.numbers import floats_of

__all__ = [
    "Block",
    "CPULayer",
    "CPUNeurons",
    "CPUWeights",
    "ColdNeurons",
    "Floats",
    "Uses",
    "bundled_matrices",
    "matrices",
    "pack_weights",
    "tables",
    "widest",
    "with_scratch",
]

Floats: TypeAlias = npt.NDArray[np.float32]
Uses: TypeAlias = Mapping[int, npt.NDArray[np.float64] | None]
Block: TypeAlias = Layer[WeightRows, Floats]
CPUNeurons: TypeAlias = Neurons[WeightRows, Floats]


@dataclass(frozen=True)
class CPULayer:
    """One layer; modes uint8 [n_ff]: what statistics say of each neuron, where a predictor is asked.

    order int32 [n_ff]: the neurons' numbers in the file, where they lie, and are numbered here, in another order.
    """

    block: Block
    modes: npt.NDArray[np.uint8] | None
    order: npt.NDArray[np.int32] | None = None


@dataclass(frozen=True)
class ColdNeurons:
    """Those of a layer that is on a GPU otherwise; `numbers` [n], of experts where they are `routed`; which, changes
    where the layer adapts. alone: the matrices have no other rows; else they are all of the layer's.
    """

    neurons: CPUNeurons
    numbers: Numbers
    alone: bool
    routed: bool = False


@dataclass(frozen=True)
class CPUWeights:
    """`head` shares its rows with the embedding where the file has none of its own; None: it is on a GPU.

    layers: those that are in main memory. cold: for each of the model's layers, what it has in main memory else.
    """

    embedding: Source[WeightRows, Floats]
    head: Head[WeightRows, Floats] | None
    layers: tuple[CPULayer, ...]
    cold: tuple[ColdNeurons | None, ...] = ()


def matrices(
    model: Model, plan: Plan, adapting: Uses | None = None, *, predictors: bool, repack: bool
) -> Iterator[Tensor]:
    """Every tensor that is to be packed, once; where only some rows will be, one as large as these. adapting: as in
    `pack_weights`.
    """
    yield from _ends(model, plan)
    for index, (layer, placed) in enumerate(zip(model.layers, plan.layers, strict=True)):
        neurons = layer.ffn.neurons
        if placed.device == MAIN_MEMORY:
            yield from leaves(layer if predictors else all_active(layer))[0]
        elif n_cold := layer.ffn.n_groups - placed.hot.size:
            for one in neurons.matrices:
                alone = repack and index not in (adapting or {})
                yield first_rows(one, n_cold * (one.shape[0] // layer.ffn.n_groups)) if alone else one


def _ends(model: Model, plan: Plan) -> Iterator[Tensor]:
    yield from leaves(model.embedding)[0]
    if plan.output == MAIN_MEMORY:
        yield from (one for one in leaves(model.head)[0] if not _is_table(model, one))


def tables(model: Model) -> list[Tensor]:
    """Of which a token needs one row: embeddings, unless they are the head's weights as well."""
    head = leaves(model.head)[0]
    return [table for table in model.embedding.tables if not any(table is one for one in head)]


def _is_table(model: Model, tensor: Tensor) -> bool:
    return any(tensor is table for table in model.embedding.tables)


def bundled_matrices(model: Model, plan: Plan, *, predictors: bool) -> Iterator[tuple[Tensor, Bundled]]:
    """Those in main memory whose rows are asked, or multiplied, 16 at a time, where their types can be."""
    yield from ((one, Bundled.WHOLE) for one in leaves(model.head)[0] if plan.output == MAIN_MEMORY)
    for layer, placed in zip(model.layers, plan.layers, strict=True):
        routed = routing_of(layer.ffn.selection)
        if routed is not None and (placed.device == MAIN_MEMORY or placed.hot.size < layer.ffn.n_groups):
            yield from ((one, Bundled.WHOLE) for one in _bundled_experts(layer.ffn.neurons, routed))
        if placed.device != MAIN_MEMORY:
            continue
        a, asked = layer.attention, predictor_of(layer.ffn.selection)
        linears = [a.q, a.k, a.v, a.output, a.gate] if isinstance(a, Attention) else []
        shared = None if routed is None or routed.shared is None else routed.shared.neurons
        neurons = layer.ffn.neurons if routed is None else shared
        if neurons is not None and neurons.n_ff and not neurons.transposed:
            linears += [neurons.gate, neurons.up, neurons.down]
        yield from ((one.weight, Bundled.WHOLE) for one in linears if one is not None)
        if predictors and asked is not None:
            yield asked.fc2, Bundled.ASKED


def _bundled_experts(neurons: Neurons[Tensor, Tensor], routed: Routed[Tensor, Tensor]) -> Iterator[Tensor]:
    """Matrices of whose rows each expert has whole bundles; gate and up are in bundles both, or neither is."""

    def fits(one: Tensor) -> bool:
        return one.n_rows // routed.n_experts % BUNDLE == 0 and bundles(one.type)

    first = [one.weight for one in (neurons.gate, neurons.up) if one is not None]
    if opens_ups(neurons, routed.router.on_input):
        first.pop()
    if all(fits(one) for one in first):
        yield from first
    if fits(neurons.down.weight):
        yield neurons.down.weight


def pack_weights(
    model: Model,
    packer: Packer,
    statistics: ActivationStatistics | None,
    plan: Plan,
    adapting: Uses | None = None,
    *,
    predictors: bool,
    repack: bool,
) -> CPUWeights:
    """Rearrange all matrices that the plan leaves in main memory. `predictors`: whether they are wanted. adapting: the
    layers whose hot neurons or experts change, so that all are needed here, and how often a token uses each.
    """
    uses = adapting or {}
    rows = {id(one): packer.pack(one) for one in _ends(model, plan)}
    embedding = model.embedding.map(lambda one: rows[id(one)], floats_of)
    head = None
    if plan.output == MAIN_MEMORY:
        head = model.head.map(lambda one: rows[id(one)], floats_of)
    layers: list[CPULayer] = []
    cold: list[ColdNeurons | None] = []
    for index, (layer, placed) in enumerate(zip(model.layers, plan.layers, strict=True)):
        left, n_groups = None, layer.ffn.n_groups
        if placed.device == MAIN_MEMORY:
            layers.append(_layer(index, layer if predictors else all_active(layer), packer, statistics))
        elif placed.hot.size < n_groups:
            numbers = ordered(placed.hot, n_groups, uses.get(index))[1]
            left = _cold(layer.ffn, numbers, packer, repack and index not in uses)
        cold.append(left)
    return CPUWeights(embedding, head, tuple(layers), tuple(cold))


def _cold(ffn: FFN[Tensor, Tensor], numbers: Numbers, packer: Packer, alone: bool) -> ColdNeurons:
    """Experts, or neurons whose down rows are rows; nothing else is divided."""
    neurons, n_groups, routed = ffn.neurons, ffn.n_groups, routing_of(ffn.selection) is not None

    def rows(one: Tensor) -> WeightRows:
        if alone:
            return packer.pack(one, group_rows(numbers, n_groups, one.shape[0]))
        return packer.pack_scattered(one) if routed else packer.pack(one)

    def some(one: Tensor) -> Floats:
        return floats_of(one)[group_rows(numbers, n_groups, one.shape[0])] if alone else floats_of(one)

    found = neurons.map_rows(rows, some, some if routed else floats_of)
    n_ff = len(numbers) * (neurons.n_ff // n_groups) if alone else neurons.n_ff
    return ColdNeurons(replace(found, n_ff=n_ff), numbers, alone, routed)


def _layer(
    index: int, layer: Layer[Tensor, Tensor], packer: Packer, statistics: ActivationStatistics | None
) -> CPULayer:
    """Packed in the order of their use: while a matrix is read to its end, memory is asked for what lies behind it.

    The rows of predicted neurons lie side by side: where few are read, here and there, memory delivers a few long
    pieces faster than many short ones; where all are, it likes each matrix for itself. Those that fire often are
    neighbours, where statistics tell which do.
    """
    ffn = layer.ffn
    match ffn.selection:
        case Everything():
            return CPULayer(layer.map(packer.pack, floats_of), None)
        case Routed():
            experts = {id(one) for one in ffn.neurons.matrices}

            def pack(tensor: Tensor) -> WeightRows:
                return packer.pack_scattered(tensor) if id(tensor) in experts else packer.pack(tensor)

            return CPULayer(layer.map(pack, floats_of), None)
        case Predicted():
            settled = None if statistics is None else statistics.activity(index)
            modes, order = modes_of(settled, ffn.neurons.n_ff), None
            if statistics is not None and _movable(ffn, packer):
                order = neuron_order(statistics.uses(index), modes)
                modes = modes[order]
            together = _Together(ffn, packer, modes, order)
            return CPULayer(layer.map(together.pack, together.floats), modes, order)


def _movable(ffn: FFN[Tensor, Tensor], packer: Packer) -> bool:
    """Whether a layer's neurons may be in any order: nothing of theirs stays in the file."""
    asked = predictor_of(ffn.selection)
    bundled = asked is not None and packer.bundles(asked.fc2) is Bundled.ASKED
    return bundled and packer.moves(list(ffn.neurons.matrices))


class _Together:
    """Packs matrices one by one, but those of an FFN's neurons together, once the first of them is asked for, and of
    bundled ones of the predictor only rows that will be asked. modes: in the neurons' order, where they have another
    than the file's.
    """

    def __init__(
        self,
        ffn: FFN[Tensor, Tensor],
        packer: Packer,
        modes: npt.NDArray[np.uint8],
        order: npt.NDArray[np.int32] | None,
    ) -> None:
        neurons = ffn.neurons
        self._neurons, self._packer, self._modes, self._order = list(neurons.matrices), packer, modes, order
        self._biases = [one.bias for one in (neurons.gate, neurons.up) if one is not None]
        self._packed: dict[int, WeightRows] = {}

    def pack(self, tensor: Tensor) -> WeightRows:
        if self._packer.bundles(tensor) is Bundled.ASKED:
            asked = asked_neurons(self._modes)
            if self._order is not None:
                return self._packer.pack(tensor, self._order[asked])
            return self._packer.pack(tensor, asked if len(asked) < len(self._modes) else None)
        if not any(tensor is one for one in self._neurons):
            return self._packer.pack(tensor)
        if not self._packed:
            places = None if self._order is None else np.argsort(self._order).astype(np.int32)
            rows = self._packer.pack_side_by_side(self._neurons, places)
            self._packed = {id(one): row for one, row in zip(self._neurons, rows, strict=True)}
        return self._packed[id(tensor)]

    def floats(self, vector: Tensor) -> Floats:
        """Biases of neurons go with them."""
        found = floats_of(vector)
        of_neurons = self._order is not None and any(vector is one for one in self._biases)
        return found[self._order] if of_neurons else found


def widest(weights: CPUWeights) -> int:
    """Columns of the widest matrix; 0: a rank's layers are all on GPUs."""
    blocks = [weights.embedding, *(layer.block for layer in weights.layers)]
    found: list[WeightRows] = [one for block in blocks for one in leaves(block)[0]]
    found += [one for cold in weights.cold if cold for one in cold.neurons.matrices]
    return max((one.n_cols for one in found), default=0)


def with_scratch(weights: CPUWeights, threads: int) -> CPUWeights:
    """The same weights; rows that each thread rearranges on use have room for so many threads."""

    def rows(one: WeightRows) -> WeightRows:
        return one.for_threads(threads)

    head = weights.head
    return CPUWeights(
        weights.embedding.map(rows, _same),
        None if head is None else head.map(rows, _same),
        tuple(replace(layer, block=layer.block.map(rows, _same)) for layer in weights.layers),
        tuple(None if one is None else replace(one, neurons=one.neurons.map(rows, _same)) for one in weights.cold),
    )


def _same(vector: Floats) -> Floats:
    return vector
