"""Entries, signs and scales as a type's blocks: the inverse of `decoders.i_quants`. Layouts: `ggml-common.h`."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..types import GGMLType
from .codebooks import Coded
from .packing import half_bytes, packed_fields

__all__ = ["BLOCKS"]

Bytes = npt.NDArray[np.uint8]

_SEVENS = np.array([0, 7, 14, 21], np.uint32)
_THREES = np.array([0, 3, 6, 9], np.uint16)


def _sign_bytes(signs: Bytes) -> Bytes:
    """[n, 256] bits -> [n, 32]."""
    return np.packbits(signs, axis=1, bitorder="little")


def _sign_words(one: Coded) -> Bytes:
    """Per 32 numbers a word of four times seven signs, and the step above them: [n, 32]."""
    sevens = (_sign_bytes(one.signs) & np.uint8(127)).reshape(-1, 8, 4).astype(np.uint32)
    words = (sevens << _SEVENS).sum(2, dtype=np.uint32) | one.k.astype(np.uint32) << np.uint32(28)
    packed: Bytes = words.astype("<u4").view(np.uint8)
    return packed


def _low(one: Coded) -> Bytes:
    return (one.entries & np.uint16(255)).astype(np.uint8)


def _high(one: Coded) -> Bytes:
    return (one.entries >> np.uint16(8)).astype(np.uint8)


def iq2_xxs(one: Coded) -> Bytes:
    indices, words = _low(one).reshape(-1, 8, 4), _sign_words(one).reshape(-1, 8, 4)
    return np.concatenate([half_bytes(one.d), np.concatenate([indices, words], 2).reshape(-1, 64)], axis=1)


def iq2_xs(one: Coded) -> Bytes:
    words = one.entries | (_sign_bytes(one.signs) & np.uint8(127)).astype(np.uint16) << np.uint16(9)
    return np.concatenate([half_bytes(one.d), words.astype("<u2").view(np.uint8), packed_fields(one.k, 4, 1)], axis=1)


def iq2_s(one: Coded) -> Bytes:
    parts = half_bytes(one.d), _low(one), _sign_bytes(one.signs), packed_fields(_high(one), 2, 1)
    return np.concatenate([*parts, packed_fields(one.k, 4, 1)], axis=1)


def iq3_xxs(one: Coded) -> Bytes:
    return np.concatenate([half_bytes(one.d), _low(one), _sign_words(one)], axis=1)


def iq3_s(one: Coded) -> Bytes:
    parts = half_bytes(one.d), _low(one), packed_fields(_high(one), 1, 1), _sign_bytes(one.signs)
    return np.concatenate([*parts, packed_fields(one.k, 4, 1)], axis=1)


def iq1_s(one: Coded) -> Bytes:
    high = _high(one).reshape(-1, 8, 4).astype(np.uint16)
    words = (high << _THREES).sum(2, dtype=np.uint16) | one.k.astype(np.uint16) << np.uint16(12)
    words |= one.tables.astype(np.uint16) << np.uint16(15)  # the second is that of entries moved down
    return np.concatenate([half_bytes(one.d), _low(one), words.astype("<u2").view(np.uint8)], axis=1)


def iq1_m(one: Coded) -> Bytes:
    """Entries from 2048 on are those moved down: their eleventh bit is the shift's."""
    steps = one.k.reshape(-1, 4, 4).astype(np.uint16)
    d = np.ascontiguousarray(one.d, np.float16).view(np.uint16)[:, None]
    pieces = d >> np.array([0, 4, 8, 12], np.uint16) & np.uint16(15)
    words = (steps << _THREES).sum(2, dtype=np.uint16) | pieces << np.uint16(12)
    return np.concatenate([_low(one), packed_fields(_high(one), 4, 1), words.astype("<u2").view(np.uint8)], axis=1)


BLOCKS: dict[GGMLType, Callable[[Coded], Bytes]] = {
    GGMLType.IQ2_XXS: iq2_xxs,
    GGMLType.IQ2_XS: iq2_xs,
    GGMLType.IQ2_S: iq2_s,
    GGMLType.IQ3_XXS: iq3_xxs,
    GGMLType.IQ3_S: iq3_s,
    GGMLType.IQ1_S: iq1_s,
    GGMLType.IQ1_M: iq1_m,
}
