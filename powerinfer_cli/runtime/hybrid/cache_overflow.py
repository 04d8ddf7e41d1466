"""The pages of KV caches that devices leave to main memory: what tokens keep there, and the CPU's attention over them.

A page lies on one side for good, by its number, so that nothing ever moves: a sequence that grows gets the device's
pages first. The device sends turned queries, keys and values, goes on with its own pages, and joins what comes back.
For many tokens the pages pass through the device instead, a few at a time: that takes less than the CPU's products.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli.kernels.cache import PAGE, CacheType, KeysValues, Shape
from powerinfer_cli.kernels.cpu.attention.operation import attention
from powerinfer_cli.kernels.cpu.attention.rope import rope
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.device.cache import DeviceCache, read_rows, write_rows
from powerinfer_cli.kernels.jit.program import CompiledProgram, Operation, assemble
from powerinfer_cli.model import Rope
from powerinfer_cli.model.blocks import Attention, LatentAttention, Mixer, SharedAttention, Temperature, cache_owner
from powerinfer_cli.runtime.backend import Parts
from powerinfer_cli.runtime.batch import Batch, BatchKind, Segment
from powerinfer_cli.runtime.context.pages import Cells, Held, moves_in_parts
from powerinfer_cli.runtime.context.saved import Stored
from powerinfer_cli.runtime.cpu.cache import turned
from powerinfer_cli.runtime.device.attending import DeviceHeads
from powerinfer_cli.runtime.device.flow import DeviceFlow
from powerinfer_cli.runtime.device.rooms import Addends
from powerinfer_cli.runtime.device.side import DeviceSide
from powerinfer_cli.runtime.device.weights import DeviceLayer
from powerinfer_cli.runtime.device.widths import RopeTables, parts_width
from powerinfer_cli.runtime.hybrid.cpu_runs import CPURuns
from powerinfer_cli.runtime.hybrid.passing import PassingPages

__all__ = ["Asked", "CacheOverflow", "SpilledAttention"]

Attending: TypeAlias = Attention[Any, Any] | SharedAttention[Any, Any] | LatentAttention[Any, Any]
Asked: TypeAlias = tuple[DeviceLayer, DeviceCache, Mapping[Rope, RopeTables], Addends, int]
Step: TypeAlias = Callable[[], None]
Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

PASSING = 64  # tokens of a batch from which on pages pass through the device


class CacheOverflow:
    """`here`: of the layers on devices that read a cache which lies on both sides, by number, how many of its pages are
    on their device; `borders`: by the number of the layer that keeps it, its first cell in main memory. `seen`: whether
    the batch that was begun sees anything of what is in main memory.
    """

    def __init__(self, parts: Parts, sides: Mapping[int, DeviceSide], cpu: CPURuns) -> None:
        options, self._pages, self._cpu, self.seen = parts.options, parts.pages, cpu, False
        host = next(iter(sides.values())).link.host
        self.here = here = {index: pages for side in sides.values() for index, pages in side.here.items()}
        types = CacheType(options.type_k), CacheType(options.type_v)
        layers = parts.model.layers
        self._blocks = {index: _attending(layers[index].attention) for index in here}
        owners = {index: cache_owner(layers, index) for index in here}
        self.borders = {owners[index]: pages * PAGE for index, pages in here.items()}
        self._kept = {
            owner: cpu.cache.kept[owner].behind(origin)  # layers here read it as well
            if owner in cpu.cache.kept
            else self._room(_attending(layers[owner].attention), types, origin)
            for owner, origin in self.borders.items()
        }
        self._there = {owner: cache for owner, cache in self._kept.items() if owner in here}  # which devices make
        self._whole = cpu.cache.kept.keys()
        self._caches = {index: self._kept[owners[index]].read_by(a.n_head) for index, a in self._blocks.items()}
        self.passing = self._passages(sides)
        self.n_bytes = sum(cache.n_bytes for cache in self._kept.values())
        ropes = {one.rope for one in self._blocks.values() if one.rope is not None}
        self._frequencies = {one: one.frequencies(self._pages.n_ctx_sequence) for one in ropes}
        n_tokens, all_of = len(cpu.many.ids), list(self._blocks.values())
        self._q = host(n_tokens * max((one.n_q for one in all_of), default=0))
        self._k, self._v = (host(n_tokens * max((one.n_kv for one in all_of), default=0)) for _ in range(2))
        self._made = host(n_tokens * max(map(parts_width, all_of), default=0))
        self._temperatures: dict[Temperature, npt.NDArray[np.float32]] = {
            one.temperature: np.ones(n_tokens, np.float32)
            for one in all_of
            if isinstance(one, Attention) and one.temperature is not None
        }
        self.write_programs()

    def _room(self, a: Attending, types: tuple[CacheType, CacheType], origin: int) -> KeysValues:
        """For the cells from `origin` on."""
        shape = Shape(a.n_head, a.n_head_kv, a.head_dim, self._pages.extent.n_cells(a.window) - origin)
        return KeysValues.make(shape, *types, origin=origin)

    def _passages(self, sides: Mapping[int, DeviceSide]) -> dict[int, PassingPages]:
        """By layer; those of a device share theirs."""
        found: dict[int, PassingPages] = {}
        for side in sides.values():
            caches = {index: self._caches[index] for index in side.here}
            pages = {index: self._pages.extent.n_cells(self._blocks[index].window) // PAGE for index in caches}
            if caches:
                found |= dict.fromkeys(caches, PassingPages(side.link, caches, pages))
        return found

    def write_programs(self) -> None:
        """They depend on how many threads there are."""
        self._programs: dict[tuple[int, bool, bool], CompiledProgram] = {}
        self._operations = {(index, one): self._written(index, one) for index in self.here for one in (True, False)}
        self._cpu.prepare(op.kernel for ops in self._operations.values() for op in ops)

    def _written(self, index: int, one: bool) -> list[Operation]:
        """For one token, or for others: attend; before it, in a layer that keeps keys and values, store what belongs
        here.
        """
        a, cache, n_tokens = self._blocks[index], self._caches[index], 1 if one else len(self._cpu.many.ids)
        buffers, threads = (self._cpu.one, self._cpu.threads) if one else (self._cpu.many, self._cpu.team.size)
        state = buffers.cached(a.window)
        q, k, v = (x.numpy() for x in self._sent(a, n_tokens))
        width = parts_width(a)
        out = Vectors(width, self._made.numpy()[: n_tokens * width].reshape(n_tokens, width), _NO_RECORDS)
        bends: dict[str, Any] = {"window": a.window}
        if isinstance(a, Attention):
            bends |= {"softcap": a.softcap, "alibi": a.alibi, "chunk": a.chunk}
            bends["temperatures"] = None if a.temperature is None else self._temperatures[a.temperature]
        attend = attention(state, q, cache, out, threads, scale=a.scale, parts=True, **bends)
        return [attend] if isinstance(a, SharedAttention) else [rope(state, q, k, v, cache, None, None), attend]

    def begin(self, batch: Batch) -> None:
        """The next batch."""
        for temperature, numbers in self._temperatures.items():
            numbers[: len(batch)] = temperature.at(batch.positions)
        self._segments = batch.segments
        kinds = {(self._blocks[index].window, pages) for index, pages in self.here.items()}
        self.seen = any(self._sees(batch, window, pages) for window, pages in kinds)

    def _sees(self, batch: Batch, window: int | None, pages: int) -> bool:
        return any((self._seen(s, window)[1] >= pages).any() for s in batch.segments)

    def _seen(self, s: Segment, window: int | None) -> tuple[int, npt.NDArray[np.int32]]:
        """Of the pages of positions that a segment sees: which of its sequence's is the first, and their numbers."""
        first = 0 if window is None else max(0, s.n_past + 1 - window) // PAGE
        return first, self._pages.of(window).tables[s.sequence, first : (s.n_past + s.n_tokens - 1) // PAGE + 1]

    def targets(self, index: int, heads: DeviceHeads, n: int) -> list[tuple[Tensor, Tensor]]:
        """Where n tokens' queries, keys and values are to be copied, and from where."""
        a = self._blocks[index]
        q, k, v = self._sent(a, n)
        found = [(q, heads.q[:n])]
        if not isinstance(a, SharedAttention):
            found.append((k, heads.k[:n]))
        return [*found, (v, heads.v[:n])] if isinstance(a, Attention) else found

    def _sent(self, a: Attending, n: int) -> tuple[Tensor, Tensor, Tensor]:
        values = self._k if isinstance(a, LatentAttention) else self._v
        q, k, v = (x[: n * size].view(n, size) for x, size in ((self._q, a.n_q), (self._k, a.n_kv), (values, a.n_kv)))
        return q, k, v

    def run(self, index: int, n_tokens: int, kind: BatchKind) -> Tensor:
        """Keep what a device has sent of a layer; what `join` takes, [T, n_head * (head_dim + 2)], of few tokens."""
        key = index, kind is BatchKind.ONE, n_tokens >= PASSING
        if key not in self._programs:
            operations = self._operations[key[:2]]
            self._programs[key] = assemble(operations[:-1] if n_tokens >= PASSING else operations)
        if self._programs[key].operations:
            self._cpu.team.run(self._programs[key].table, self._cpu.threads_for(kind))
        return self.made(index, n_tokens)

    def made(self, index: int, n_tokens: int) -> Tensor:
        """Where `run` leaves it."""
        width = parts_width(self._blocks[index])
        return self._made[: n_tokens * width].view(n_tokens, width)

    def pass_through(self, index: int, passing: PassingPages, attend: Callable[[int, DeviceCache, int], None]) -> None:
        """What the batch's segments see here of a layer, a few pages at a time: attend(the segment's number, its pages
        in order, on a device, the position of the first).
        """
        border, most = self.here[index], passing.most(index)
        for number, s in enumerate(self._segments):
            first, row = self._seen(s, self._blocks[index].window)
            at = 0
            while at < len(row):
                end = at
                while end < min(len(row), at + most) and row[end] >= border:
                    end += 1
                if end > at:
                    with passing.on_device(index, row[at:end] - border) as cache:
                        attend(number, cache, (first + at) * PAGE)
                at = max(end, at + 1)

    def with_rest(self, held: Held, found: Arrays) -> Arrays:
        """What was read of the caches, with what is here of the layers that lie on both sides."""
        whole = dict(found)
        for index, cache in self._there.items():
            cells, there = self._divided(index, held)
            if there.all():
                continue
            for name, part in cache.stored(cells[~there] - cache.origin).items():
                rows = np.empty((len(cells), *part.shape[1:]), part.dtype)
                rows[there], rows[~there] = found[f"{index}.{name}"], part
                whole[f"{index}.{name}"] = rows
        return whole

    def write(self, held: Held, stored: Stored) -> None:
        """Put back what is to be here; it was found to fit."""
        for index, cache in self._there.items():
            cells, there = self._divided(index, held)
            if there.all():
                continue
            own = {name.partition(".")[2]: part for name, part in stored.items() if name.startswith(f"{index}.")}
            cache.store(cells[~there] - cache.origin, {name: part[~there] for name, part in own.items()})

    def _divided(self, index: int, held: Held) -> tuple[Cells, npt.NDArray[np.bool_]]:
        """The cells of what is held, and which of them are on the device."""
        cells = held.of(self._blocks[index].window)
        return cells, cells < self.borders[index]

    def shift(self, there: Mapping[int, DeviceCache], sequence: int, n_past: int, n_keep: int, n_discard: int) -> None:
        """As a backend's, of the layers among them, but of caches that are whole here. there: a device's, by layer."""
        for index in self._there.keys() - self._whole:
            if index in there and n_discard:
                self._shift(index, there[index], sequence, n_past, n_keep, n_discard)

    def _shift(self, index: int, there: DeviceCache, sequence: int, n_past: int, n_keep: int, n_discard: int) -> None:
        a = self._blocks[index]
        for sources, targets in moves_in_parts(self._pages.of(a.window), sequence, n_past, n_keep, n_discard):
            keys, values = self._read(index, there, sources)
            if a.rope is not None:
                angles = n_discard * self._frequencies[a.rope]
                keys = turned(keys, np.cos(angles), -np.sin(angles), a.rope.style)
            self._write(index, there, targets, keys, values)

    def _read(self, index: int, there: DeviceCache, cells: Cells) -> tuple[npt.NDArray[np.float32], ...]:
        """Keys and values float32 [n, n_head_kv, head_dim] from either side."""
        cache = self._kept[index]
        on = cells < cache.origin
        wanted = torch.from_numpy(cells[on]).to(there.k.device)
        parts = ((there.k, there.k_scales), (there.v, there.v_scales))
        found = []
        for own, (numbers, scales) in zip(cache.read(cells[~on] - cache.origin), parts, strict=True):
            rows = np.empty((len(cells), *own.shape[1:]), np.float32)
            rows[~on], rows[on] = own, read_rows(numbers, scales, wanted).transpose(0, 1).cpu().numpy()
            found.append(rows)
        return tuple(found)

    def _write(
        self,
        index: int,
        there: DeviceCache,
        cells: Cells,
        keys: npt.NDArray[np.float32],
        values: npt.NDArray[np.float32],
    ) -> None:
        cache = self._kept[index]
        on = cells < cache.origin
        cache.write_keys(cells[~on] - cache.origin, keys[~on])
        cache.write_values(cells[~on] - cache.origin, values[~on])
        wanted = torch.from_numpy(cells[on]).to(there.k.device)
        for numbers, scales, rows in ((there.k, there.k_scales, keys), (there.v, there.v_scales, values)):
            moved = torch.from_numpy(rows[on]).to(there.k.device).transpose(0, 1)
            write_rows(numbers, scales, wanted, moved)


class SpilledAttention:
    """One layer's attention to n tokens on both sides."""

    def __init__(
        self, side: DeviceSide, flow: DeviceFlow, index: int, overflow: CacheOverflow, compute: Callable[[], None]
    ) -> None:
        """compute: waits for what the device has sent, and has `overflow` run."""
        self._side, self._flow, self._index = side, flow, index
        self._overflow, self._compute = overflow, compute
        self._a = _attending(side.layers[index].block.attention)

    def steps(self, asked: Asked) -> tuple[Step, Step, Step, Step, Step]:
        """What is done in turn: up to what is sent; remember that point; attend on the device; attend here; join.

        asked: what `DeviceFlow.ask` takes.
        """
        n = asked[-1]
        return (
            partial(self._ask, asked),
            self._side.link.mark,
            partial(self._flow.attention.attend_here, self._a, self._side.caches[self._index], n),
            self._compute,
            partial(self._join, n),
        )

    def _ask(self, asked: Asked) -> None:
        self._flow.ask(*asked)
        for target, source in self._overflow.targets(self._index, self._flow.attention.heads_of(self._a), asked[-1]):
            self._side.link.copy(target, source)

    def _join(self, n: int) -> None:
        attention = self._flow.attention
        if n < PASSING:
            self._side.link.copy(attention.parts_of(self._a).other[:n], self._overflow.made(self._index, n))
        else:
            attention.forget_other(self._a, n)
            attend = partial(attention.attend_passing, self._a)
            self._overflow.pass_through(self._index, self._overflow.passing[self._index], attend)
        attention.join(self._a, self._flow.projected, n)


def _attending(a: Mixer[Any, Any]) -> Attending:
    assert isinstance(a, Attention | SharedAttention | LatentAttention)  # others have no cache
    return a


_NO_RECORDS = np.empty((0, 0), np.uint8)
