"""Attention of the layers on one device, up to what their output matrix makes of it. T tokens.

Where a layer's last pages lie in main memory it is done in two parts, which are joined: what the device has, and what
the CPU tells of the others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, assert_never

import torch
from torch import Tensor

from powerinfer_cli.kernels.device import DeviceCache, Ops, PlanarRows
from powerinfer_cli.kernels.device.reference_attention import LOWEST, merge
from powerinfer_cli.model import Rope
from powerinfer_cli.model.blocks import Attention, HeadNorms, LatentAttention, SharedAttention
from powerinfer_cli.runtime.context.cache_size import reads_whole
from powerinfer_cli.runtime.device.latent import kept_and_queries, values_of_heads
from powerinfer_cli.runtime.device.places import Places
from powerinfer_cli.runtime.device.widths import RopeTables, Widths, parts_width

__all__ = ["Attending", "DeviceAttention", "DeviceHeads"]

Attending: TypeAlias = (
    Attention[PlanarRows, Tensor] | SharedAttention[PlanarRows, Tensor] | LatentAttention[PlanarRows, Tensor]
)


@dataclass(frozen=True, eq=False)
class DeviceHeads:
    """Of an attention: q and attended [tokens, n_q], k and v [tokens, n_kv]; of latents, v is k. gate [tokens, n_q]: of
    what is attended to, where there is one.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    attended: Tensor
    gate: Tensor | None = None


@dataclass(frozen=True, eq=False)
class DeviceParts:
    """What is to be joined, [tokens, n_head * (head_dim + 2)]: the device's own, and what the CPU tells."""

    own: Tensor
    other: Tensor


class DeviceAttention:
    """Buffers for up to n_tokens, and the steps over their first T rows."""

    def __init__(self, widths: Widths, ops: Ops, n_tokens: int, places: Places, device: torch.device) -> None:
        self.ops, self._places = ops, places

        def room(n: int) -> Tensor:
            return torch.zeros(n_tokens, n, device=device)

        self._heads: dict[tuple[int, int], DeviceHeads] = {}
        for q, kv in widths.heads:
            gate = room(q) if q in widths.gates else None
            self._heads[q, kv] = DeviceHeads(room(q), room(kv), room(kv), room(q), gate)
        self._latent: dict[tuple[int, int], DeviceHeads] = {}
        for q, kv in widths.latent:
            kept = room(kv)
            self._latent[q, kv] = DeviceHeads(room(q), kept, kept, room(q))
        self._parts = {width: DeviceParts(room(width), room(width)) for width in widths.parts}

    def heads_of(self, a: Attending) -> DeviceHeads:
        rooms = self._latent if isinstance(a, LatentAttention) else self._heads
        return rooms[a.n_q, a.n_kv]

    def parts_of(self, a: Attending) -> DeviceParts:
        """Of a layer whose cache lies on both sides."""
        return self._parts[parts_width(a)]

    def ask(self, a: Attending, seen: Tensor, cache: DeviceCache, tables: Mapping[Rope, RopeTables], n: int) -> None:
        """Queries, keys and values of what a layer reads, turned; what of these belongs here is in the cache."""
        room, ops = self.heads_of(a), self.ops
        k: Tensor | None = room.k[:n]
        v: Tensor | None = room.v[:n]
        norms: HeadNorms[Tensor] | None = None
        match a:
            case Attention():
                norms = self._projected(a, room, seen, n)
            case SharedAttention():
                ops.linear(a.q, seen[:n], room.q[:n])
                k, v, norms = None, None, HeadNorms(a.norm, a.norm)
            case LatentAttention():
                q, vectors = kept_and_queries(ops, a, seen[:n])
                room.q[:n].copy_(q)
                room.k[:n].copy_(vectors)
            case _:
                assert_never(a)
        style = None if a.rope is None else a.rope.style
        cos, sin = (None, None) if a.rope is None else (tables[a.rope].cos, tables[a.rope].sin)
        if reads_whole(a):
            ops.turn(room.q[:n], k, v, a.head_dim, self._places.positions[:n], cos, sin, style, norms=norms)
            return
        where = self._places.positions[:n], self._places.cached(a.window).cells[:n]
        ops.rope_store(room.q[:n], k, v, cache, *where, cos, sin, style, norms=norms)

    def _projected(
        self, a: Attention[PlanarRows, Tensor], room: DeviceHeads, seen: Tensor, n: int
    ) -> HeadNorms[Tensor] | None:
        """Norms of each head by itself are left to do."""
        for linear, out in ((a.q, room.q), (a.k, room.k), (a.v, room.v)):
            self.ops.linear(linear, seen[:n], out[:n])
            if a.clamp is not None:
                out[:n].clamp_(-a.clamp, a.clamp)
        if a.gate is not None:
            assert room.gate is not None  # it is there where any has one
            self.ops.linear(a.gate, seen[:n], room.gate[:n])
        norms = a.norms
        if norms is None or not norms.whole:
            return norms
        for norm, part in ((norms.q, room.q[:n]), (norms.k, room.k[:n])):
            self.ops.norm(norm, part, out=part)
        return None

    def attend(self, a: Attending, cache: DeviceCache, projected: Tensor, n: int) -> None:
        """`projected`, where all that tokens see is here."""
        room = self.heads_of(a)
        if isinstance(a, Attention) and reads_whole(a):
            self._over_texts(a, room, n)
        else:
            self._over_segments(a, cache, room.attended, n, parts=False)
        self._finish(a, room, projected, n)

    def attend_here(self, a: Attending, cache: DeviceCache, n: int) -> None:
        """The own part."""
        self._over_segments(a, cache, self.parts_of(a).own, n, parts=True)

    def join(self, a: Attending, projected: Tensor, n: int) -> None:
        """`projected`, of both parts."""
        room, parts = self.heads_of(a), self.parts_of(a)
        sinks = a.sinks if isinstance(a, Attention) else None
        self.ops.join(parts.own[:n], parts.other[:n], sinks, room.attended[:n])
        self._finish(a, room, projected, n)

    def attend_passing(self, a: Attending, segment: int, cache: DeviceCache, begin: int) -> None:
        """Add to the other part what a batch's segment sees of pages that pass through: `cache` has those of positions
        from `begin` on.
        """
        own = self._places.cached(a.window).segments[segment]
        q, other = self.heads_of(a).q[own.begin : own.end], self.parts_of(a).other[own.begin : own.end]
        pages = torch.arange(cache.n_pages, device=q.device)
        found = self._attention(a, parts=True)(q, cache, own.n_past, pages, limit=own.limit, begin=begin)
        shape = len(q), a.n_head, -1
        merge(other.view(shape), found.view(shape))

    def forget_other(self, a: Attending, n: int) -> None:
        """The other part, of nothing."""
        other = self.parts_of(a).other[:n].zero_()
        other.view(n, a.n_head, -1)[..., -2] = LOWEST

    def _attention(self, a: Attending, *, parts: bool) -> Callable[..., Tensor]:
        attention = partial(self.ops.attention, scale=a.scale, window=a.window, parts=parts)
        if isinstance(a, Attention):
            attention = partial(attention, softcap=a.softcap, alibi=a.alibi, chunk=a.chunk)
            sinks = None if parts else a.sinks
            attention = partial(attention, temperature=a.temperature, sinks=sinks)
        return attention

    def _over_segments(self, a: Attending, cache: DeviceCache, out: Tensor, n: int, *, parts: bool) -> None:
        q, attention = self.heads_of(a).q, self._attention(a, parts=parts)
        for own in self._places.cached(a.window).segments[:n]:
            part = slice(own.begin, own.end)
            attention(q[part], cache, own.n_past, own.pages, limit=own.limit, out=out[part])

    def _over_texts(self, a: Attention[PlanarRows, Tensor], room: DeviceHeads, n: int) -> None:
        """Of encoders: a segment is a text, and nothing of it is kept."""
        for own in self._places.cached(None).segments[:n]:
            q, k, v, out = (x[own.begin : own.end] for x in (room.q, room.k, room.v, room.attended))
            attend = partial(self.ops.attention_of_text, scale=a.scale, softcap=a.softcap, alibi=a.alibi)
            attend(q, k, v, a.head_dim, reach=a.reach, out=out)

    def _finish(self, a: Attending, room: DeviceHeads, projected: Tensor, n: int) -> None:
        found = room.attended[:n]
        match a:
            case Attention():
                if room.gate is not None and a.gate is not None:
                    found.mul_(room.gate[:n].sigmoid())
            case SharedAttention():
                pass
            case LatentAttention():
                found = values_of_heads(self.ops, a, found)
            case _:
                assert_never(a)
        self.ops.linear(a.output, found, projected[:n])
