"""How a chunk's quants are stored: in vectors of 64 bytes, k = 0..7 (groups of 32) or k = 0..3 (groups of 16).

A Layout's quants(chunk, k) is vector k; its pack(q, target) stores all of them, which are one behind the other at q.
  nibbles     vector k, and k + 4 (groups of 16: k + 2) in the high halves, in 64 bytes
  fifth bits  behind nibbles, bit k of 64 bytes
  two bits    bits 2k and 2k + 1 of 64 bytes
  third bits  8 bytes for each vector, lowest bit first
"""

from dataclasses import dataclass
from typing import Any

from powerinfer_cli.kernels.jit import RUNG, Products, helper
from powerinfer_cli.kernels.simd import bits64, load64, store64, store_bits, zero64

__all__ = ["BYTES", "BYTES_OFFSET", "FIVE", "FOUR", "SIX", "THREE", "TWO", "Layout"]

# Products with unsigned bytes are cheaper: where the rung's products allow for any byte, bytes hold q + 128.
BYTES_OFFSET = 128 if RUNG.products is Products.UNSIGNED else 0


@dataclass(frozen=True)
class Layout:
    """`size`: bytes of a chunk's quants; `bits`: of each, once it is unpacked."""

    size: int
    bits: int
    quants: Any
    pack: Any


@helper
def _four(chunk, k):
    return (load64(chunk, (k & 3) * 64) >> ((k >> 2) * 4)) & 15


@helper
def _four_of_16(chunk, k):
    return (load64(chunk, (k & 1) * 64) >> ((k >> 1) * 4)) & 15


@helper
def _pack_nibbles(q, target, n):
    for i in range(n):
        store64(target, 64 * i, (load64(q, 64 * i) & 15) | (load64(q, 64 * (n + i)) << 4))


@helper
def _pack_four(q, target):
    _pack_nibbles(q, target, 4)


@helper
def _five(chunk, k):
    return _four(chunk, k) | (((load64(chunk, 256) >> k) & 1) << 4)


@helper
def _pack_five(q, target):
    _pack_nibbles(q, target, 4)
    fifth = zero64()
    for k in range(8):
        fifth = fifth | (((load64(q, 64 * k) >> 4) & 1) << k)
    store64(target, 256, fifth)


@helper
def _bytes(chunk, k):
    return load64(chunk, 64 * k)


@helper
def _pack_bytes(q, target):
    for k in range(8):
        store64(target, 64 * k, load64(q, 64 * k) ^ BYTES_OFFSET)


@helper
def _fields(chunk, offset, k):
    return (load64(chunk, offset) >> (2 * k)) & 3


@helper
def _pack_fields(q, shift, target, offset):
    """Two bits of each quant, from bit `shift` on."""
    fields = zero64()
    for k in range(4):
        fields = fields | (((load64(q, 64 * k) >> shift) & 3) << (2 * k))
    store64(target, offset, fields)


@helper
def _two(chunk, k):
    return _fields(chunk, 0, k)


@helper
def _pack_two(q, target):
    _pack_fields(q, 0, target, 0)


@helper
def _three(chunk, k):
    return _fields(chunk, 0, k) | bits64(chunk, 64 + 8 * k, 4)


@helper
def _pack_three(q, target):
    _pack_fields(q, 0, target, 0)
    for k in range(4):
        store_bits(target, 64 + 8 * k, load64(q, 64 * k) & 4)


@helper
def _six(chunk, k):
    return _four_of_16(chunk, k) | (_fields(chunk, 128, k) << 4)


@helper
def _pack_six(q, target):
    _pack_nibbles(q, target, 2)
    _pack_fields(q, 4, target, 128)


FOUR, FIVE = Layout(256, 4, _four, _pack_four), Layout(320, 5, _five, _pack_five)
TWO, THREE, SIX = Layout(64, 2, _two, _pack_two), Layout(96, 3, _three, _pack_three), Layout(192, 6, _six, _pack_six)
BYTES = Layout(512, 8, _bytes, _pack_bytes)
