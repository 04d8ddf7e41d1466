"""The FFNs of the layers on one device: who of neurons and experts is asked, and what those that are here make."""

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from powerinfer_cli.kernels.device import Ops, PlanarRows
from powerinfer_cli.kernels.reference import route
from powerinfer_cli.model.blocks import (
    FFN,
    Everything,
    Linear,
    Neurons,
    Norm,
    Predicted,
    Routed,
    SharedExpert,
    predictor_of,
    routing_of,
)
from powerinfer_cli.runtime.device.rooms import Chosen, ExpertRoom, NeuronRoom
from powerinfer_cli.runtime.device.weights import DeviceLayer
from powerinfer_cli.runtime.device.widths import Widths

__all__ = ["DeviceFFN", "Stream"]


@dataclass(frozen=True, eq=False)
class Stream:
    """Of a flow, [T, n_embd]: the residual stream, two rooms for what is normed of it, and what attention makes."""

    x: Tensor
    normed: Tensor
    normed_2: Tensor
    projected: Tensor


class DeviceFFN:
    """Buffers for up to so many tokens, and the steps over their first T rows.

    `hot`, `cold`: what neurons or experts here, and those elsewhere, make of `normed`. `mask`: whom a predictor lets
    through.
    """

    def __init__(
        self, widths: Widths, ops: Ops, stream: Stream, threshold: float, counts: Tensor, device: torch.device
    ) -> None:
        """counts: as a DeviceFlow's."""
        self.ops, self.threshold, self.counts, self._stream = ops, threshold, counts, stream
        n_tokens, n_embd = stream.x.shape

        def room(n: int) -> Tensor:
            return torch.zeros(n_tokens, n, device=device)

        self.hot, self.cold = room(n_embd), room(n_embd)
        self._plain = ExpertRoom(stream.normed, self.hot, self.cold)
        self._latents = {width: ExpertRoom(room(width), room(width), room(width)) for width in widths.expert_latents}
        self._values = {n_ff: NeuronRoom(room(n_ff), room(n_ff), room(n_ff)) for n_ff in widths.dense}
        self.mask = torch.zeros(n_tokens, widths.predicted, dtype=torch.uint8, device=device)
        self._chosen = {
            count: Chosen(torch.zeros(n_tokens, count, dtype=torch.int64, device=device), room(count))
            for count in widths.chosen
        }

    def select(self, layer: DeviceLayer, n: int) -> None:
        """Of an FFN whose input is in `normed`, and whose predictor looks at x: the mask of its neurons, or the chosen
        experts; of experts apart their input, and that of the neurons beside them in `normed_2`; of those on latents
        these as well.
        """
        asked, n_ff, stream = layer.block.ffn.selection, layer.n_hot + layer.n_cold, self._stream
        match asked:
            case Everything():
                if layer.block.ffn.neurons.transposed:
                    self._count(layer, 0, torch.full((n,), n_ff, device=self.mask.device))
            case Predicted():
                x, mask = (stream.x[0], self.mask[0, :n_ff]) if n == 1 else (stream.x[:n], self.mask[:n, :n_ff])
                self.ops.predict(asked.fc1, asked.fc2, x, self.threshold, layer.modes, out=mask)
                self._count(layer, 0, mask.view(n, n_ff).sum(1))
            case Routed():
                self._enter_experts(layer, asked, n)
            case _:
                assert_never(asked)

    def select_early(self, ffn: FFN[PlanarRows, Tensor], n: int) -> None:
        """Of a router that reads x as it comes to the layer."""
        routed = routing_of(ffn.selection)
        if routed is not None and routed.router.early:
            self._choose(routed, self._stream.x, n)

    def experts_of(self, layer: DeviceLayer) -> ExpertRoom:
        """Where what neurons or experts read is, and where what they make goes."""
        routed = routing_of(layer.block.ffn.selection)
        if routed is None or routed.latents is None:
            return self._plain
        return self._latents[routed.latents.enter.weight.n_rows]

    def chosen(self, routed: Routed[PlanarRows, Tensor]) -> Chosen:
        """What `select` has found, or, of a router that reads the layer's input, `select_early`."""
        return self._chosen[routed.router.n_chosen]

    def every_neuron(self, layer: DeviceLayer, n: int) -> Tensor:
        """What every neuron of a layer that is wholly here makes of `normed`, [T, n_ff]."""
        neurons, x = layer.block.ffn.neurons, self._stream.normed[:n]
        up = self.ops.matmul(neurons.up.weight, x, neurons.up.bias)
        gate = None if neurons.gate is None else self.ops.matmul(neurons.gate.weight, x, neurons.gate.bias)
        return self.ops.values_of(neurons, gate, up)

    def hot_of(self, layer: DeviceLayer, values: Tensor, n: int) -> None:
        """`hot`: what comes of neurons that are these values [T, n_ff]."""
        neurons = layer.block.ffn.neurons
        multiply = self.ops.matmul_t if neurons.transposed else self.ops.matmul
        multiply(neurons.down.weight, values, out=self.hot[:n])
        if neurons.down.bias is not None:
            self.hot[:n].add_(neurons.down.bias)

    def run(self, layer: DeviceLayer, n: int) -> None:
        """`hot`: what the neurons on the device make of `normed`, where there are any in the layer."""
        if not layer.has_ffn:
            return
        neurons, routed = layer.block.ffn.neurons, routing_of(layer.block.ffn.selection)
        if routed is not None:
            self._routed(layer, routed, n)
            return
        if neurons.transposed:
            self._sparse(layer, neurons, n)
        else:
            self._dense(neurons, self._stream.normed, self.hot, n)
        if neurons.down.bias is not None:
            self.hot[:n].add_(neurons.down.bias)

    def add_chunk(self, layer: DeviceLayer, neurons: Neurons[PlanarRows, Tensor], columns: slice, n: int) -> None:
        """`cold` += what some neurons make of `normed`, but for down's bias; columns: where the mask has them."""
        mask = self.mask[:n, columns].contiguous() if predictor_of(layer.block.ffn.selection) else None
        y, fired = self.ops.sparse_ffn_batch(self._stream.normed[:n], mask, neurons)
        self.cold[:n].add_(y)
        self._count(layer, 1, fired)

    def _enter_experts(self, layer: DeviceLayer, routed: Routed[PlanarRows, Tensor], n: int) -> None:
        stream, router = self._stream, routed.router
        if routed.apart is not None:
            stream.normed_2[:n].copy_(stream.normed[:n])
        if router.norm is not None:
            self._norm(router.norm, stream.x, n)
        if not router.early:
            self._choose(routed, stream.normed, n)
        if routed.apart is not None:
            self._norm(routed.apart.before, stream.x, n)
        if routed.latents is not None:
            self._multiply(routed.latents.enter, stream.normed, self.experts_of(layer).seen, n)

    def _norm(self, norm: Norm[Tensor] | None, x: Tensor, n: int) -> None:
        """`normed`: of x, which is left as it is."""
        if norm is None:
            self._stream.normed[:n].copy_(x[:n])
        else:
            self.ops.norm(norm, x[:n], (), self._stream.normed[:n])

    def _choose(self, routed: Routed[PlanarRows, Tensor], x: Tensor, n: int) -> None:
        router, room = routed.router, self.chosen(routed)
        logits = torch.empty(n, router.logits.weight.n_rows, device=x.device)
        self._multiply(router.logits, x, logits, n)
        experts, weights = route(logits, router)
        room.experts[:n].copy_(experts)
        room.weights[:n].copy_(weights)

    def _routed(self, layer: DeviceLayer, routed: Routed[PlanarRows, Tensor], n: int) -> None:
        """The shared expert, in `projected` where the others' sum passes through something else, and those of the
        chosen ones that are here.
        """
        experts, room, shared = self.experts_of(layer), self.chosen(routed), routed.shared
        x, out, by_itself = experts.seen[:n], experts.hot[:n], routed.sums_apart
        if shared is None or by_itself:
            out.zero_()
        if shared is not None:
            seen = self._stream.normed if routed.apart is None else self._stream.normed_2
            self._shared(shared, seen, self._stream.projected if by_itself else self.hot, n)
        if layer.n_hot and layer.slots is not None:
            chosen = room.experts[:n], room.weights[:n]
            on_input = routed.router.on_input
            self.ops.add_experts(x, *chosen, layer.slots, layer.block.ffn.neurons, out, on_input=on_input)

    def _shared(self, shared: SharedExpert[PlanarRows, Tensor], x: Tensor, out: Tensor, n: int) -> None:
        self._dense(shared.neurons, x, out, n)
        if shared.neurons.down.bias is not None:
            out[:n].add_(shared.neurons.down.bias)
        if shared.gate is not None:
            out[:n].mul_((x[:n] @ shared.gate).sigmoid_().unsqueeze(1))
        if shared.norm is not None:
            self.ops.norm(shared.norm, out[:n], (), out[:n])

    def _dense(self, neurons: Neurons[PlanarRows, Tensor], x: Tensor, out: Tensor, n: int) -> None:
        room = self._values[neurons.n_ff]
        if neurons.gate is not None:
            self._multiply(neurons.gate, x, room.gate, n)
        self._multiply(neurons.up, x, room.up, n)
        gate = room.gate[:n] if neurons.gate is not None else None
        self.ops.values_of(neurons, gate, room.up[:n], out=room.value[:n])
        self._multiply(Linear(neurons.down.weight, None), room.value, out, n)

    def _sparse(self, layer: DeviceLayer, neurons: Neurons[PlanarRows, Tensor], n: int) -> None:
        one, mask, seen = n == 1, None, self._stream.normed
        if predictor_of(layer.block.ffn.selection):
            mask = self.mask[0, : layer.n_hot] if one else self.mask[:n, : layer.n_hot].contiguous()
        x, out = (seen[0], self.hot[0]) if one else (seen[:n], self.hot[:n])
        run = self.ops.sparse_ffn if one else self.ops.sparse_ffn_batch
        _, fired = run(x, mask, neurons, out=out)
        self._count(layer, 1, fired)

    def _multiply(self, linear: Linear[PlanarRows, Tensor], x: Tensor, out: Tensor, n: int) -> None:
        self.ops.linear(linear, x[:n], out[:n])

    def _count(self, layer: DeviceLayer, kind: int, numbers: Tensor) -> None:
        """Of each token."""
        n = len(numbers)
        if n > len(self.counts):
            self.counts[0, layer.place, kind].add_(numbers.sum())
        else:
            self.counts[:n, layer.place, kind].add_(numbers)
