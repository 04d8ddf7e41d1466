"""What flows through the layers on one device, and what they do to it. T tokens; buffers have room for `n_tokens`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

import torch
from torch import Tensor

from powerinfer_cli.kernels.device import DeviceCache, Ops, PlanarRows
from powerinfer_cli.kernels.reference import route
from powerinfer_cli.model import Rope
from powerinfer_cli.model.blocks import (
    FFN,
    Attention,
    DeltaNet,
    Everything,
    Head,
    LatentAttention,
    Linear,
    LinearMixer,
    Mamba2,
    Neurons,
    NoMixer,
    Norm,
    Parallel,
    PostNorm,
    Predicted,
    Routed,
    Sequential,
    SharedAttention,
    SharedExpert,
    ShortConvolution,
    input_gate_of,
    predictor_of,
    routing_of,
)
from powerinfer_cli.runtime.context.pages import PageTable
from powerinfer_cli.runtime.device.attending import DeviceAttention
from powerinfer_cli.runtime.device.layer_inputs import DeviceInputs
from powerinfer_cli.runtime.device.places import Places
from powerinfer_cli.runtime.device.recurrent import mix
from powerinfer_cli.runtime.device.rooms import (
    Addends,
    Chosen,
    DeviceLinear,
    ExpertRoom,
    NeuronRoom,
    mixed,
)
from powerinfer_cli.runtime.device.weights import DeviceLayer
from powerinfer_cli.runtime.device.widths import RopeTables, Widths

__all__ = ["DeviceFlow"]


class DeviceFlow:
    """Buffers for up to so many tokens, float32, and the steps of a layer over their first T rows.

    A step leaves its result in a buffer, so that for one token it can be recorded. What is still to be added to the
    residual stream x goes from step to step as `adds`.
    """

    def __init__(
        self,
        widths: Widths,
        ops: Ops,
        n_tokens: int,
        pages: PageTable,
        threshold: float,
        counts: Tensor,
        device: torch.device,
    ) -> None:
        """counts int64 [FEW, layers, 2]: neurons let through, and neurons that fired, are added to it: of each of a few
        tokens in its place, of many all in the first.
        """
        self.ops, self.threshold, self.counts = ops, threshold, counts
        self.places = Places(n_tokens, pages, device)
        n = widths.n_embd

        def room(n: int) -> Tensor:
            return torch.zeros(n_tokens, n, device=device)

        self.x, self.normed, self.normed_2 = room(n), room(n), room(n)
        self.projected, self.hot, self.cold = room(n), room(n), room(n)
        self._plain = ExpertRoom(self.normed, self.hot, self.cold)
        self._latents = {width: ExpertRoom(room(width), room(width), room(width)) for width in widths.expert_latents}
        self.beside = room(n if widths.beside else 0)
        self.inputs = DeviceInputs(widths, ops, n_tokens, device)
        self.attention = DeviceAttention(widths, ops, n_tokens, self.places, device)
        self._values = {n_ff: NeuronRoom(room(n_ff), room(n_ff), room(n_ff)) for n_ff in widths.dense}
        self.mask = torch.zeros(n_tokens, widths.predicted, dtype=torch.uint8, device=device)
        self._chosen = {
            count: Chosen(torch.zeros(n_tokens, count, dtype=torch.int64, device=device), room(count))
            for count in widths.chosen
        }

    def attend(
        self, layer: DeviceLayer, cache: DeviceCache, tables: Mapping[Rope, RopeTables], adds: Addends, n: int
    ) -> None:
        """Up to `projected`, what attention makes, where there is one; all that it sees is here. adds: to x before."""
        self.ask(layer, cache, tables, adds, n)
        a = layer.block.attention
        if isinstance(a, Attention | SharedAttention | LatentAttention):
            self.attention.attend(a, cache, self.projected, n)

    def ask(
        self, layer: DeviceLayer, cache: DeviceCache, tables: Mapping[Rope, RopeTables], adds: Addends, n: int
    ) -> None:
        """Up to queries, and keys and values in the cache; `projected` of what has none, which may keep states there.
        adds: to x before.
        """
        block = layer.block
        a = block.attention
        match block:
            case Sequential():
                before = None if isinstance(a, NoMixer) else block.attention_norms.before
                seen = self._enter(before, adds, n)
                self._choose_early(block.ffn, n)
            case Parallel():
                seen = self._enter(block.norm if block.ffn_norm is None else block.ffn_norm, adds, n)
                self._choose_early(block.ffn, n)
                if block.ffn_norm is not None:
                    self._norm(block.norm, self.x, (), self.normed_2, n)
                    seen = self.normed_2
            case PostNorm():
                seen = self._enter(None, adds, n)
            case _:
                assert_never(block)
        match a:
            case Attention() | SharedAttention() | LatentAttention():
                if isinstance(a, Attention) and a.beside is not None:
                    assert cache.states is not None
                    mix(self.ops, a.beside, seen[:n], cache.states, self.places, self.beside[:n])
                self.attention.ask(a, seen, cache, tables, n)
            case LinearMixer():
                self._multiply(a.output, seen, self.projected, n)
            case ShortConvolution() | DeltaNet() | Mamba2():
                assert cache.states is not None  # such layers have them
                mix(self.ops, a, seen[:n], cache.states, self.places, self.projected[:n])
            case NoMixer():
                pass
            case _:
                assert_never(a)

    def predict(self, layer: DeviceLayer, n: int) -> None:
        """The FFN's input in `normed`, and, where there is a predictor, the mask of its neurons, or, where there is a
        router, the chosen experts; of experts apart their input, and that of the neurons beside them in `normed_2`; of
        those on latents these as well.
        """
        self.enter_ffn(layer, n)
        asked, n_ff = layer.block.ffn.selection, layer.n_hot + layer.n_cold
        match asked:
            case Everything():
                if layer.block.ffn.neurons.transposed:
                    self._count(layer, 0, torch.full((n,), n_ff, device=self.x.device))
            case Predicted():
                x, mask = (self.x[0], self.mask[0, :n_ff]) if n == 1 else (self.x[:n], self.mask[:n, :n_ff])
                self.ops.predict(asked.fc1, asked.fc2, x, self.threshold, layer.modes, out=mask)
                self._count(layer, 0, mask.view(n, n_ff).sum(1))
            case Routed():
                if asked.apart is not None:
                    self.normed_2[:n].copy_(self.normed[:n])
                if asked.router.norm is not None:
                    self._norm(asked.router.norm, self.x, (), self.normed, n)
                if not asked.router.early:
                    self._choose(asked, self.normed, n)
                if asked.apart is not None:
                    self._enter_normed(asked.apart.before, Addends(), n)
                if asked.latents is not None:
                    self._multiply(asked.latents.enter, self.normed, self.experts_of(layer).seen, n)
            case _:
                assert_never(asked)

    def experts_of(self, layer: DeviceLayer) -> ExpertRoom:
        """Where what neurons or experts read is, and where what they make goes."""
        routed = routing_of(layer.block.ffn.selection)
        if routed is None or routed.latents is None:
            return self._plain
        return self._latents[routed.latents.enter.weight.n_rows]

    def chosen(self, routed: Routed[PlanarRows, Tensor]) -> Chosen:
        """What `predict` has found, or, of a router that reads the layer's input, `attend`."""
        return self._chosen[routed.router.n_chosen]

    def _choose(self, routed: Routed[PlanarRows, Tensor], x: Tensor, n: int) -> None:
        router, room = routed.router, self.chosen(routed)
        logits = torch.empty(n, router.logits.weight.n_rows, device=x.device)
        self._multiply(router.logits, x, logits, n)
        experts, weights = route(logits, router)
        room.experts[:n].copy_(experts)
        room.weights[:n].copy_(weights)

    def _choose_early(self, ffn: FFN[PlanarRows, Tensor], n: int) -> None:
        """Of a router that reads x as it comes to the layer."""
        routed = routing_of(ffn.selection)
        if routed is not None and routed.router.early:
            self._choose(routed, self.x, n)

    def enter_ffn(self, layer: DeviceLayer, n: int) -> None:
        """The FFN's input in `normed`; x is what a predictor looks at. Nothing is done where there are no neurons."""
        block = layer.block
        if not layer.has_ffn:
            return
        match block:
            case Sequential():
                self._enter_normed(block.ffn_norms.before, mixed(block, self.projected, self.beside), n)
            case Parallel():
                pass  # it is there
            case PostNorm():
                self.normed_2[:n].copy_(self.x[:n])
                self.settle(Addends((self.projected,), stream=block.norm), n)
                again = Addends() if block.again is None else Addends((self.normed_2,), stream=block.again)
                self._enter_normed(None, again, n)
            case _:
                assert_never(block)

    def every_neuron(self, layer: DeviceLayer, n: int) -> Tensor:
        """What every neuron of a layer that is wholly here makes of `normed`, [T, n_ff]."""
        neurons, x = layer.block.ffn.neurons, self.normed[:n]
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

    def hot_ffn(self, layer: DeviceLayer, n: int) -> None:
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
            self._dense(neurons, self.normed, self.hot, n)
        if neurons.down.bias is not None:
            self.hot[:n].add_(neurons.down.bias)

    def _routed(self, layer: DeviceLayer, routed: Routed[PlanarRows, Tensor], n: int) -> None:
        """The shared expert, in `projected` where the others' sum passes through something else, and those of the
        chosen ones that are here.
        """
        experts, room, shared = self.experts_of(layer), self.chosen(routed), routed.shared
        x, out, by_itself = experts.seen[:n], experts.hot[:n], routed.sums_apart
        if shared is None or by_itself:
            out.zero_()
        if shared is not None:
            seen = self.normed if routed.apart is None else self.normed_2
            self._shared(shared, seen, self.projected if by_itself else self.hot, n)
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
            self._norm(shared.norm, out, (), out, n)

    def add_chunk(self, layer: DeviceLayer, neurons: Neurons[PlanarRows, Tensor], columns: slice, n: int) -> None:
        """`cold` += what some neurons make of `normed`, but for down's bias; columns: where the mask has them."""
        mask = self.mask[:n, columns].contiguous() if predictor_of(layer.block.ffn.selection) else None
        y, fired = self.ops.sparse_ffn_batch(self.normed[:n], mask, neurons)
        self.cold[:n].add_(y)
        self._count(layer, 1, fired)

    def _count(self, layer: DeviceLayer, kind: int, numbers: Tensor) -> None:
        """Of each token."""
        n = len(numbers)
        if n > len(self.counts):
            self.counts[0, layer.place, kind].add_(numbers.sum())
        else:
            self.counts[:n, layer.place, kind].add_(numbers)

    def add_inputs(self, layer: DeviceLayer, n: int) -> None:
        """`projected`: what a layer makes of its inputs; x += what its FFN has made. Nothing where it has none."""
        gate = input_gate_of(layer.block)
        if gate is not None:
            self.settle(self._made(layer), n)
            self.inputs.share(gate, self.x[:n], self.projected[:n])

    def adds(self, layer: DeviceLayer) -> Addends:
        """What a layer leaves to be added to x, behind `add_inputs`."""
        block = layer.block
        if isinstance(block, Sequential) and block.input_gate is not None:
            return Addends((self.projected,), block.input_gate.norm, block.scale)
        return self._made(layer)

    def _made(self, layer: DeviceLayer) -> Addends:
        """What the FFN, and what is parallel to it, leave to be added to x."""
        block = layer.block
        room = self.experts_of(layer)
        parts = (room.hot,) if layer.adds_hot else ()
        if layer.n_cold:
            parts = (*parts, room.cold)
        match block:
            case Sequential():
                if not layer.has_ffn:
                    return mixed(block, self.projected, self.beside)
                routed = routing_of(block.ffn.selection)
                found = Addends(parts, block.ffn_norms.after, block.scale)
                if routed is None or not routed.sums_apart:
                    return found
                inner = routed.latents.leave if routed.latents else routed.apart.after if routed.apart else None
                return replace(found, beside=self.projected if routed.shared else None, inner=inner)
            case Parallel():
                return Addends((self.projected, *parts))
            case PostNorm():
                return Addends(parts, stream=block.ffn_norm)
        assert_never(block)

    def settle(self, adds: Addends, n: int) -> None:
        """x += adds."""
        for part in self._summed(adds, n):
            self.x[:n].add_(part, alpha=adds.scale)
        if adds.stream is not None:
            self._norm(adds.stream, self.x, (), self.x, n)

    def last_norm(self, norm: Norm[Tensor] | None, x: Tensor) -> Tensor:
        """x [T, n_embd] behind the last norm, if there is one; x stays as it is."""
        return x.clone() if norm is None else self.ops.norm(norm, x)

    def head(self, head: Head[PlanarRows, Tensor], x: Tensor, products: Tensor) -> None:
        """The head's products [T, n_vocab] with x [T, n_embd], which stays as it is; T 1 as for one token."""
        norm, output = head.parts
        self.ops.linear(output, self.last_norm(norm, x), products)

    def _enter(self, norm: Norm[Tensor] | None, adds: Addends, n: int) -> Tensor:
        """x += adds; what a block reads: x, or `normed`."""
        if norm is None:
            self.settle(adds, n)
            return self.x
        assert adds.stream is None  # such layers are alike, and read the stream
        self._norm(norm, self.x, self._summed(adds, n), self.normed, n, adds.scale)
        return self.normed

    def _enter_normed(self, norm: Norm[Tensor] | None, adds: Addends, n: int) -> None:
        """The same, in `normed` either way."""
        if self._enter(norm, adds, n) is not self.normed:
            self.normed[:n].copy_(self.x[:n])

    def _summed(self, adds: Addends, n: int) -> tuple[Tensor, ...]:
        """The first T rows of the parts; of their sum, where that is normed."""
        parts = tuple(part[:n] for part in adds.parts)
        if adds.inner is not None and parts:
            parts = (self._through(adds.inner, parts, n),)
        if adds.beside is not None:
            parts = (adds.beside[:n], *parts)
        if adds.norm is None or not parts:
            return parts
        first, *others = parts
        self._norm(adds.norm, first, tuple(others), first, n)
        return (first,)

    def _through(self, inner: Norm[Tensor] | DeviceLinear, parts: tuple[Tensor, ...], n: int) -> Tensor:
        """What becomes of the parts' sum."""
        first, *others = parts
        if isinstance(inner, Norm):
            self._norm(inner, first, tuple(others), first, n)
            return first
        for other in others:
            first.add_(other)
        self._multiply(inner, first, self.hot, n)
        return self.hot[:n]

    def _norm(
        self, norm: Norm[Tensor], x: Tensor, adds: tuple[Tensor, ...], out: Tensor, n: int, scale: float = 1.0
    ) -> None:
        self.ops.norm(norm, x[:n], adds, out[:n], scale=scale)

    def _multiply(self, linear: DeviceLinear, x: Tensor, out: Tensor, n: int) -> None:
        self.ops.linear(linear, x[:n], out[:n])

    def _dense(self, neurons: Neurons[PlanarRows, Tensor], x: Tensor, out: Tensor, n: int) -> None:
        room = self._values[neurons.n_ff]
        if neurons.gate is not None:
            self._multiply(neurons.gate, x, room.gate, n)
        self._multiply(neurons.up, x, room.up, n)
        gate = room.gate[:n] if neurons.gate is not None else None
        self.ops.values_of(neurons, gate, room.up[:n], out=room.value[:n])
        self._multiply(Linear(neurons.down.weight, None), room.value, out, n)

    def _sparse(self, layer: DeviceLayer, neurons: Neurons[PlanarRows, Tensor], n: int) -> None:
        one, mask = n == 1, None
        if predictor_of(layer.block.ffn.selection):
            mask = self.mask[0, : layer.n_hot] if one else self.mask[:n, : layer.n_hot].contiguous()
        x, out = (self.normed[0], self.hot[0]) if one else (self.normed[:n], self.hot[:n])
        run = self.ops.sparse_ffn if one else self.ops.sparse_ffn_batch
        _, fired = run(x, mask, neurons, out=out)
        self._count(layer, 1, fired)
