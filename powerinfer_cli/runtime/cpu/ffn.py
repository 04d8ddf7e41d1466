"""The operations of an FFN, dense, sparse or routed; and products and norms, which all parts of layers are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.activation import activate
from powerinfer_cli.kernels.cpu.gate import gate
from powerinfer_cli.kernels.cpu.gemm import Product, gemm
from powerinfer_cli.kernels.cpu.matvec import matvec, matvec_few
from powerinfer_cli.kernels.cpu.norm import add, add_norm, quantise
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.sparse.asking import Predictor
from powerinfer_cli.kernels.cpu.sparse.batch import sparse_batch
from powerinfer_cli.kernels.cpu.sparse.few import sparse_few
from powerinfer_cli.kernels.cpu.sparse.token import sparse_token
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model.blocks import FFN, Linear, Norm, Routed, predictor_of, routing_of
from powerinfer_cli.runtime.cpu.buffers import Buffers, Room
from powerinfer_cli.runtime.cpu.experts import choose, chosen_experts, on_latents
from powerinfer_cli.runtime.cpu.weights import CPULayer, CPUNeurons, Floats

__all__ = ["NOTHING", "Addends", "FFNWriter", "Products"]

Products: TypeAlias = Sequence[tuple[Linear[WeightRows, Floats], Floats]]


@dataclass(frozen=True)
class Addends:
    """What is still to be added to the residual stream, and how often."""

    parts: tuple[Floats, ...] = ()
    scale: float = 1.0


NOTHING = Addends()


class FFNWriter:
    """Writes operations over one set of buffers: with `room` for batches, with `panels` for a few tokens, `few` at
    most, else for one token. fixed: products of batches, as `gemm` says.
    """

    def __init__(
        self,
        buffers: Buffers,
        threshold: float,
        threads: int,
        room: Room | None = None,
        *,
        fixed: bool = False,
        few: int = 0,
        panels: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        self.buffers, self.threshold, self.threads, self.room = buffers, threshold, threads, room
        self.fixed, self.few, self.panels = fixed, few, panels

    def _ffn(self, place: int, layer: CPULayer, x: Vectors) -> list[Operation]:
        ffn = layer.block.ffn
        routed = routing_of(ffn.selection)
        if routed is not None:
            return self._routed_ffn(ffn, routed, x)
        return self._sparse_ffn(place, layer, x) if ffn.neurons.transposed else self._dense_ffn(ffn.neurons, x)

    def _routed_ffn(
        self, ffn: FFN[WeightRows, Floats], routed: Routed[WeightRows, Floats], x: Vectors
    ) -> list[Operation]:
        b, shared, asked = self.buffers, routed.shared, routed.router.norm
        choice = [] if routed.router.early else self._choice(ffn, routed, x if asked is None else b.normed_2)
        if asked is not None:
            choice.insert(0, self._norm(asked, b.x, b.normed_2))
        first = [] if shared is None else self._dense_ffn(shared.neurons, x)
        if shared is not None and shared.gate is not None:
            first.append(gate(b.state, x, shared.gate, b.ffn.floats))
        if shared is not None:
            first += self._leave(shared.norm, b.ffn)
        experts = partial(chosen_experts, b.state, ffn, routed, rooms=b.routed, threads=self.threads)
        experts = partial(experts, workspace=None if self.room is None else self.room.experts, panels=self.panels)
        around, out = routed.apart, b.ffn if shared is None or b.apart is None else b.apart
        together = [] if shared is None else [add(b.state, b.ffn, out.floats)]
        if routed.latents is not None:
            made = on_latents(b.state, routed.latents, x, b.latents, experts, self._multiply, out.floats)
            return [*choice, *first, *made, *together]
        if around is None:
            return [*choice, *first, *experts(x, out=b.ffn.floats, add=shared is not None)]
        entering = [] if around.before is None else [self._norm(around.before, b.x, b.normed_2)]
        made = experts(b.x if around.before is None else b.normed_2, out=out.floats, add=False)
        return [*choice, *first, *entering, *made, *self._leave(around.after, out), *together]

    def _early_choice(self, ffn: FFN[WeightRows, Floats]) -> list[Operation]:
        """Of a router that reads the layer's input."""
        b, routed = self.buffers, routing_of(ffn.selection)
        if routed is None or not routed.router.early:
            return []
        return [quantise(b.state, b.x), *self._choice(ffn, routed, b.x)]

    def _choice(self, ffn: FFN[WeightRows, Floats], routed: Routed[WeightRows, Floats], x: Vectors) -> list[Operation]:
        b, many = self.buffers, self.room is not None
        return choose(b.state, ffn, routed, x, b.routed, self._multiply, many=many)

    def _dense_ffn(self, neurons: CPUNeurons, x: Vectors) -> list[Operation]:
        values, b = self.dense_values(neurons, x), self.buffers
        return [*values, *self._multiply(b.neurons[neurons.n_ff].value, [(neurons.down, b.ffn.floats)])]

    def dense_values(self, neurons: CPUNeurons, x: Vectors) -> list[Operation]:
        """What meets the down matrix."""
        b = self.buffers
        room = b.neurons[neurons.n_ff]
        gate = [] if neurons.gate is None else [(neurons.gate, room.gate.floats)]
        gates = room.gate.floats if gate else None
        values = partial(activate, relu_on_up=neurons.relu_on_up, curve=neurons.curve)
        return [
            *self._multiply(x, [*gate, (neurons.up, room.up.floats)]),
            values(b.state, gates, room.up.floats, room.value, neurons.activation),
        ]

    def _sparse_ffn(self, place: int, layer: CPULayer, x: Vectors) -> list[Operation]:
        b, neurons, asked = self.buffers, layer.block.ffn.neurons, predictor_of(layer.block.ffn.selection)
        asking: list[Operation] = []
        hidden = predictor = None
        if asked is not None:
            assert layer.modes is not None  # made with the selection
            hidden = b.hidden[asked.fc1.n_rows]
            predictor = Predictor.of(asked.fc2, layer.modes, self.threshold)
            asking = self._multiply(b.x, [(Linear(asked.fc1, None), hidden.floats)])
            asking.append(quantise(b.state, hidden, relu=True))
        operands = x, hidden, neurons, predictor, b.ffn.floats
        if self.panels is not None:
            return [*asking, *sparse_few(b.state, *operands, b.few_counts[place], self.few, self.panels)]
        counts = b.counts[place]
        if self.room is None:
            return [*asking, *sparse_token(*operands, counts)]
        assert self.room.sparse is not None  # there is one where down rows are rows
        room = self.room.products, self.room.sparse.of(neurons.n_ff)
        return [*asking, *sparse_batch(b.state, *operands, counts, *room)]

    def _leave(self, norm: Norm[Floats] | None, made: Vectors) -> list[Operation]:
        """What a block has made, normed."""
        return [] if norm is None else [self._norm(norm, made, made)]

    def _norm(self, norm: Norm[Floats], x: Vectors, out: Vectors, adds: Addends = NOTHING) -> Operation:
        numbers = norm.weight, norm.bias, out, norm.eps, norm.kind, adds.scale
        return add_norm(self.buffers.state, x, adds.parts, *numbers)

    def _multiply(self, x: Vectors, products: Products) -> list[Operation]:
        """Several matrices times the same vectors."""
        if self.room is not None:
            wanted = [Product(one.weight, out, one.bias) for one, out in products]
            return gemm(self.buffers.state, x, wanted, self.room.products, fixed=self.fixed)
        multiply = matvec if self.panels is None else partial(matvec_few, self.buffers.state, panels=self.panels)
        last = len(products) - 1
        return [
            multiply(one.weight, x, out, one.bias, threads=self.threads, wait=i == last)
            for i, (one, out) in enumerate(products)
        ]
