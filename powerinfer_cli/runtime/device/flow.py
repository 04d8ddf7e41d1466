"""What flows through the layers on one device, and what they do to it. T tokens; buffers have room for `n_tokens`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

import torch
from torch import Tensor

from powerinfer_cli.kernels.device import DeviceCache, Ops, PlanarRows
from powerinfer_cli.model import Rope
from powerinfer_cli.model.blocks import (
    Attention,
    DeltaNet,
    Head,
    LatentAttention,
    LinearMixer,
    Mamba2,
    NoMixer,
    Norm,
    Parallel,
    PostNorm,
    Sequential,
    SharedAttention,
    ShortConvolution,
    input_gate_of,
    routing_of,
)
from powerinfer_cli.runtime.context.pages import PageTable
from powerinfer_cli.runtime.device.attending import DeviceAttention
from powerinfer_cli.runtime.device.ffn import DeviceFFN, Stream
from powerinfer_cli.runtime.device.layer_inputs import DeviceInputs
from powerinfer_cli.runtime.device.places import Places
from powerinfer_cli.runtime.device.recurrent import mix
from powerinfer_cli.runtime.device.rooms import (
    Addends,
    DeviceLinear,
    mixed,
)
from powerinfer_cli.runtime.device.weights import DeviceLayer
from powerinfer_cli.runtime.device.widths import RopeTables, Widths

__all__ = ["DeviceFlow"]


class DeviceFlow:
    """Buffers for up to so many tokens, float32, and the steps of a layer over their first T rows.

    A step leaves its result in a buffer, so that for a few tokens apart it can be recorded. What is still to be added
    to the residual stream x goes from step to step as `adds`.
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
        *,
        apart: bool,
    ) -> None:
        """counts int64 [FEW, layers, 2]: neurons let through, and neurons that fired, are added to it: of each of a few
        tokens in its place, of many all in the first. apart: see `Places`.
        """
        self.ops = ops
        self.places = Places(n_tokens, pages, device, apart=apart)
        n = widths.n_embd

        def room(n: int) -> Tensor:
            return torch.zeros(n_tokens, n, device=device)

        self.x, self.normed, self.normed_2, self.projected = room(n), room(n), room(n), room(n)
        stream = Stream(self.x, self.normed, self.normed_2, self.projected)
        self.ffn = DeviceFFN(widths, ops, stream, threshold, counts, device)
        self.beside = room(n if widths.beside else 0)
        self.inputs = DeviceInputs(widths, ops, n_tokens, device)
        self.attention = DeviceAttention(widths, ops, n_tokens, self.places, device)

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
                self.ffn.select_early(block.ffn, n)
            case Parallel():
                seen = self._enter(block.norm if block.ffn_norm is None else block.ffn_norm, adds, n)
                self.ffn.select_early(block.ffn, n)
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
                self.ops.linear(a.output, seen[:n], self.projected[:n])
            case ShortConvolution() | DeltaNet() | Mamba2():
                assert cache.states is not None  # such layers have them
                mix(self.ops, a, seen[:n], cache.states, self.places, self.projected[:n])
            case NoMixer():
                pass
            case _:
                assert_never(a)

    def predict(self, layer: DeviceLayer, n: int) -> None:
        """The FFN's input, and who of its neurons or experts is asked."""
        self.enter_ffn(layer, n)
        self.ffn.select(layer, n)

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
        room = self.ffn.experts_of(layer)
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
        self.ops.linear(inner, first, self.ffn.hot[:n])
        return self.ffn.hot[:n]

    def _norm(
        self, norm: Norm[Tensor], x: Tensor, adds: tuple[Tensor, ...], out: Tensor, n: int, scale: float = 1.0
    ) -> None:
        self.ops.norm(norm, x[:n], adds, out[:n], scale=scale)
