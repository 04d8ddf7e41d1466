"""How 16 rows lie beside each other: in chunks of a GGUF block of each.

Of groups of 32 that are blocks themselves a chunk is a repacked chunk of 16 blocks. Of superblocks it has, for their
256 columns, what scales are made of, asked of memory before the quants that need it,
  float16 [16]     d, behind them dmin where there are minima
  arrays of bytes  uint8 or int8 [groups, 16]: scales, behind them minima where there are any
and from the next cache line on the quants of each group of columns, laid out as a repacked chunk's 16 groups are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.formats.layouts import Layout
from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import (
    address_of,
    lanes_of_16,
    lanes_of_32,
    load16,
    load32,
    load_f16,
    splat,
    stack_f32,
    store16,
    store32,
    u8,
    zero,
)

__all__ = ["Bundle", "Tail", "groups_bundle", "repack_superblocks", "superblocks_bundle"]

_SUPERBLOCK = 256


@dataclass(frozen=True)
class Bundle:
    """Of a format: a chunk of so many `columns` has `size` bytes; at `first` the quants of its groups begin, of `part`
    bytes each.

    quants(c, k) -> vector k of the group at c; shared(chunk) -> what the scales of all groups are made of;
    scales(chunk, g, shared) and mins(chunk, g, shared) -> those of group g, of 16 rows.
    """

    columns: int
    size: int
    first: int
    part: int
    quants: Any
    shared: Any
    scales: Any
    mins: Any


@dataclass(frozen=True)
class Tail:
    """What a superblock has behind its quants, in a repacked chunk that begins with it: at `bytes_at` arrays of a byte
    a group, at `halves_at` float16.

    scale(chunk, at) -> what d is multiplied with for a group of 16 rows, whose bytes of the first array are at `at`;
    low(chunk, at) -> the same for dmin, where there is one.
    """

    bytes_at: Sequence[int]
    halves_at: Sequence[int]
    scale: Any
    low: Any = None


def groups_bundle(chunk_bytes: int, quants: Any, scales: Any, mins: Any) -> Bundle:
    """Of groups of 32 that are GGUF blocks."""

    @helper
    def shared(chunk):
        return 0

    @helper
    def scales_of(chunk, g, shared):
        return scales(chunk)

    @helper
    def mins_of(chunk, g, shared):
        return mins(chunk)

    return Bundle(32, chunk_bytes, 0, 0, quants, shared, scales_of, mins_of)


def superblocks_bundle(group: int, layout: Layout, tail: Tail) -> Bundle:
    """Of superblocks in groups of 16 or 32."""
    bytes_at, first, size = _places(group, layout, tail)
    scale, low = tail.scale, tail.low

    @helper
    def one(chunk):
        return load_f16(chunk, 0)

    @helper
    def two(chunk):
        return load_f16(chunk, 0), load_f16(chunk, 32) * splat(-1)

    @helper
    def scales_of_one(chunk, g, shared):
        return scale(chunk, bytes_at + 16 * g) * shared

    @helper
    def scales_of_two(chunk, g, shared):
        return scale(chunk, bytes_at + 16 * g) * shared[0]

    @helper
    def no_mins(chunk, g, shared):
        return zero()

    @helper
    def mins(chunk, g, shared):
        return low(chunk, bytes_at + 16 * g) * shared[1]

    if low is None:
        return Bundle(_SUPERBLOCK, size, first, layout.size, layout.quants, one, scales_of_one, no_mins)
    return Bundle(_SUPERBLOCK, size, first, layout.size, layout.quants, two, scales_of_two, mins)


def _places(group: int, layout: Layout, tail: Tail) -> tuple[int, int, int]:
    """Where a chunk's arrays of bytes and its quants begin, and where it ends: in whole cache lines."""
    groups = _SUPERBLOCK // group
    bytes_at = 32 * len(tail.halves_at)
    first = -(-(bytes_at + len(tail.bytes_at) * groups * 16) // 64) * 64
    return bytes_at, first, -(-(first + groups * layout.size) // 64) * 64


def repack_superblocks(kind: GGMLType, group: int, layout: Layout, read: Any, put_scales: Any, tail: Tail) -> Any:
    """A REPACK of 16 superblocks, one behind the other, to a bundle's chunk."""
    bytes_at, first, _ = _places(group, layout, tail)
    block, groups, step, pack = BLOCK[kind][1], _SUPERBLOCK // group, layout.size, layout.pack
    to_lanes = lanes_of_32 if group == 32 else lanes_of_16
    of_bytes, of_halves = tuple(tail.bytes_at), tuple(tail.halves_at)

    @helper
    def put_tail(source, target, j, room):
        """Of row j; room: for a repacked chunk."""
        put_scales(source, room, _SUPERBLOCK)
        for i in range(len(of_bytes)):
            for g in range(groups):
                target[bytes_at + (i * groups + g) * 16 + j] = room[of_bytes[i] + g]
        for i in range(len(of_halves)):
            target[32 * i + 2 * j] = room[of_halves[i]]
            target[32 * i + 2 * j + 1] = room[of_halves[i] + 1]

    @helper
    def put_group(q, target, g, room):
        for j in range(16):
            if group == 32:
                store32(room, 32 * j, load32(q, _SUPERBLOCK * j + 32 * g))
            else:
                store16(room, 16 * j, load16(q, _SUPERBLOCK * j + 16 * g))
        to_lanes(room, room)
        pack(room, u8(target + first + g * step))

    def repack(source, target, n):
        q, room = u8(address_of(stack_f32(1024))), u8(address_of(stack_f32(192)))
        for j in range(16):
            read(u8(source + j * block), u8(address_of(q) + _SUPERBLOCK * j), _SUPERBLOCK)
            put_tail(u8(source + j * block), u8(target), j, room)
        for g in range(groups):
            put_group(q, target, g, room)

    return repack
