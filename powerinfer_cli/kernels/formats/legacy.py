"""GGUF's first block formats: 32 weights with a float16 scale (and minimum).  Source: ggml-common.h, ggml-quants.c.

Repacked rows, 64 weights (two blocks) at a time, blocks beyond the row's end left out:
Q4_0, Q4_1   32 bytes: the first block's weights in the low nibbles, the second's in the high ones
Q5_0, Q5_1   the same, and behind all of them 64 bits for the fifth bits
Q8_0         64 bytes as they are
then float16 scales [n / 32], then float16 minima [n / 32].
"""

from typing import Any

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.formats.blocks import make_kernels
from powerinfer_cli.kernels.formats.format import REPACK, Format
from powerinfer_cli.kernels.jit import Kernel, helper, kernel
from powerinfer_cli.kernels.simd import bits64, first_f16, join, load32, load64, u8

__all__ = ["FORMATS", "nibbles"]


@helper  # type: ignore[untyped-decorator]
def pairs(n):  # type: ignore[no-untyped-def]
    """Pairs of blocks in a row of n weights; the last may lack its second block."""
    return (n + 63) // 64


@helper  # type: ignore[untyped-decorator]
def nibbles(row, n, at):  # type: ignore[no-untyped-def]
    """64 four-bit quants at the row's front."""
    packed = load32(row, at // 2)
    return join(packed & 15, packed >> 4)


@helper  # type: ignore[untyped-decorator]
def _five_bits(row, n, at):  # type: ignore[no-untyped-def]
    return nibbles(row, n, at) | bits64(row, pairs(n) * 32 + at // 8, 16)


@helper  # type: ignore[untyped-decorator]
def _bytes(row, n, at):  # type: ignore[no-untyped-def]
    return load64(row, at)


@helper  # type: ignore[untyped-decorator]
def _halves(row, offset, n, at):  # type: ignore[no-untyped-def]
    """16 of the float16 [n / 32] that begin at a byte offset of the row."""
    return first_f16(row, offset + at // 32 * 2, n // 32 - at // 32)


def _scales(quant_bytes: int, which: int) -> Any:
    """The which-th float16 array behind quants of so many bytes for 64 weights."""

    @helper  # type: ignore[untyped-decorator]
    def scales(row, n, at):  # type: ignore[no-untyped-def]
        return _halves(row, pairs(n) * quant_bytes + which * (n // 32) * 2, n, at)

    return scales


def _repack(name: str, block: int, has_min: bool, bits: int) -> Kernel:
    """From GGUF blocks of so many bytes: scale, [minimum], [fifth bits, 4 bytes], quants."""
    head = 4 if has_min else 2

    def repack(source_address, target_address, n):  # type: ignore[no-untyped-def]
        source, target = u8(source_address), u8(target_address)
        quant_bytes = 64 if bits == 8 else (40 if bits == 5 else 32)
        high_bits = pairs(n) * 32
        scales = pairs(n) * quant_bytes
        for i in range(scales):
            target[i] = 0
        for b in range(n // 32):
            s, pair, second = b * block, b // 2, b % 2
            target[scales + 2 * b] = source[s]
            target[scales + 2 * b + 1] = source[s + 1]
            if has_min:
                target[scales + (n // 32) * 2 + 2 * b] = source[s + 2]
                target[scales + (n // 32) * 2 + 2 * b + 1] = source[s + 3]
            q = s + head
            if bits == 5:
                for i in range(4):
                    target[high_bits + pair * 8 + second * 4 + i] = source[q + i]
                q += 4
            if bits == 8:
                for i in range(32):
                    target[pair * 64 + second * 32 + i] = source[q + i]
            else:
                for i in range(16):
                    packed = source[q + i]
                    target[pair * 32 + i] |= (packed & 15) << (4 * second)
                    target[pair * 32 + 16 + i] |= (packed >> 4) << (4 * second)

    return kernel(REPACK, f"repack_{name}")(repack)


def _format(kind: GGMLType, bits: int, quants: Any, *, offset: int = 0, has_min: bool = False) -> Format:
    name = kind.name.lower()
    quant_bytes = {4: 32, 5: 40, 8: 64}[bits]
    block = (4 if has_min else 2) + {4: 16, 5: 20, 8: 32}[bits]
    scales, mins = _scales(quant_bytes, 0), _scales(quant_bytes, 1) if has_min else None
    dot, axpy, unpack = make_kernels(name, 32, quants, scales, mins, offset=offset, signed=bits == 8)
    return Format(
        kind,
        32,
        has_min,
        lambda n: -(-n // 64) * quant_bytes + n // 32 * (4 if has_min else 2),
        _repack(name, block, has_min, bits),
        dot,
        axpy,
        unpack,
    )


FORMATS = (
    _format(GGMLType.Q4_0, 4, nibbles, offset=8),
    _format(GGMLType.Q4_1, 4, nibbles, has_min=True),
    _format(GGMLType.Q5_0, 5, _five_bits, offset=16),
    _format(GGMLType.Q5_1, 5, _five_bits, has_min=True),
    _format(GGMLType.Q8_0, 8, _bytes),
)
