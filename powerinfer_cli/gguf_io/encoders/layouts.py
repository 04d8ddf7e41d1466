"""Quants and scales as a type's blocks: the inverse of `decoders`. Layouts: `ggml-common.h`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ..decoders import NON_LINEAR
from ..types import GGMLType
from .fitting import Grid
from .packing import four_bits, half_bytes, nibbles, packed_fields, scales_and_minima, six_bit_scales

__all__ = ["LAYOUTS", "Layout"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """A type's groups of so many numbers. steps: of a group's scale in that of the super-block, 0: it has its own;
    signed: such a multiple may be negative, down to -steps - 1. pack: quants [n, block] from 0 on, scales, minima ->
    bytes.
    """

    group: int
    grid: Grid
    pack: Callable[[Bytes, Floats, Floats, Bytes, Bytes], Bytes]
    steps: int = 0


def _q4_0(q: Bytes, d: Floats, m: Floats, scales: Bytes, minima: Bytes) -> Bytes:
    return np.concatenate([half_bytes(d), nibbles(q, 16)], axis=1)


def _q4_1(q: Bytes, d: Floats, m: Floats, scales: Bytes, minima: Bytes) -> Bytes:
    return np.concatenate([half_bytes(d), half_bytes(m), nibbles(q, 16)], axis=1)


def _q5_0(q: Bytes, d: Floats, m: Floats, scales: Bytes, minima: Bytes) -> Bytes:
    return np.concatenate([half_bytes(d), *four_bits(q)], axis=1)


def _q5_1(q: Bytes, d: Floats, m: Floats, scales: Bytes, minima: Bytes) -> Bytes:
    return np.concatenate([half_bytes(d), half_bytes(m), *four_bits(q)], axis=1)


def _q8_0(q: Bytes, d: Floats, m: Floats, scales: Bytes, minima: Bytes) -> Bytes:
    return np.concatenate([half_bytes(d), (q.view(np.int8) - np.int8(127)).view(np.uint8)], axis=1)


def _iq4_xs(q: Bytes, d: Floats, m: Floats, scales: Bytes, minima: Bytes) -> Bytes:
    six = scales + np.uint8(32)
    low, high = packed_fields(six & np.uint8(15), 4, 1), packed_fields(six >> np.uint8(4), 2, 1)
    return np.concatenate([half_bytes(d), high, low, nibbles(q, 16)], axis=1)


def _q2_k(q: Bytes, d: Floats, m: Floats, scales: Bytes, minima: Bytes) -> Bytes:
    return np.concatenate(
        [scales | minima << np.uint8(4), packed_fields(q, 2, 32), half_bytes(d), half_bytes(m)], axis=1
    )


def _q3_k(q: Bytes, d: Floats, m: Floats, scales: Bytes, minima: Bytes) -> Bytes:
    third, two = packed_fields(q >> np.uint8(2), 1, 32), packed_fields(q & np.uint8(3), 2, 32)
    return np.concatenate([third, two, six_bit_scales(scales + np.uint8(32)), half_bytes(d)], axis=1)


def _q4_k(q: Bytes, d: Floats, m: Floats, scales: Bytes, minima: Bytes) -> Bytes:
    return np.concatenate([half_bytes(d), half_bytes(m), scales_and_minima(scales, minima), nibbles(q, 32)], axis=1)


def _q5_k(q: Bytes, d: Floats, m: Floats, scales: Bytes, minima: Bytes) -> Bytes:
    fifth = packed_fields(q >> np.uint8(4), 1, 32)
    return np.concatenate(
        [half_bytes(d), half_bytes(m), scales_and_minima(scales, minima), fifth, nibbles(q, 32)], axis=1
    )


def _q6_k(q: Bytes, d: Floats, m: Floats, scales: Bytes, minima: Bytes) -> Bytes:
    high = packed_fields(q >> np.uint8(4), 2, 32)
    return np.concatenate([nibbles(q, 64), high, scales, half_bytes(d)], axis=1)


def _with_minima(top: int, *, below: bool = False) -> Grid:
    return Grid(0, top, minima=True, below=below)


UNEVEN = Grid(-127, 113, levels=NON_LINEAR)
LAYOUTS: Mapping[GGMLType, Layout] = MappingProxyType(
    {
        GGMLType.Q4_0: Layout(32, Grid(-8, 7), _q4_0),
        GGMLType.Q4_1: Layout(32, _with_minima(15), _q4_1),
        GGMLType.Q5_0: Layout(32, Grid(-16, 15), _q5_0),
        GGMLType.Q5_1: Layout(32, _with_minima(31), _q5_1),
        GGMLType.Q8_0: Layout(32, Grid(-127, 127), _q8_0),
        GGMLType.IQ4_NL: Layout(32, UNEVEN, _q4_0),
        GGMLType.IQ4_XS: Layout(32, UNEVEN, _iq4_xs, steps=31),
        GGMLType.Q2_K: Layout(16, _with_minima(3, below=True), _q2_k, steps=15),
        GGMLType.Q3_K: Layout(16, Grid(-4, 3), _q3_k, steps=31),
        GGMLType.Q4_K: Layout(32, _with_minima(15, below=True), _q4_k, steps=63),
        GGMLType.Q5_K: Layout(32, _with_minima(31, below=True), _q5_k, steps=63),
        GGMLType.Q6_K: Layout(16, Grid(-32, 31), _q6_k, steps=127),
    }
)
