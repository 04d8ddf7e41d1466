"""GGUF's first block formats: 32 weights with a float16 scale (and minimum).  Source: ggml-common.h, ggml-quants.c.

Repacked rows, 64 weights (two blocks) at a time, blocks beyond the row's end left out:
Q4_0, Q4_1   32 bytes: the first block's weights in the low nibbles, the second's in the high ones
Q5_0, Q5_1   the same, and behind all of them 64 bits for the fifth bits
Q8_0         64 bytes as they are
then float16 scales [n / 32], then float16 minima [n / 32].
"""

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.formats.blocks import make_kernels
from powerinfer_cli.kernels.formats.format import REPACK, Format
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.simd import bits64, first_f16, join, load16, load32, load64, store16, store32, u8

__all__ = ["FORMATS", "halves_behind", "nibbles", "pairs", "repack_nibbles"]


@helper
def pairs(n):
    """Pairs of blocks in a row of n weights; the last may lack its second block."""
    return (n + 63) // 64


@helper
def nibbles(row, n, at):
    """64 four-bit quants at the row's front."""
    packed = load32(row, at // 2)
    return join(packed & 15, packed >> 4)


@helper
def _five_bits(row, n, at):
    return nibbles(row, n, at) | bits64(row, pairs(n) * 32 + at // 8, 16)


@helper
def _bytes(row, n, at):
    return load64(row, at)


def halves_behind(quant_bytes, which=0):
    """scales(row, n, at) of the which-th float16 array behind quants of so many bytes for 64 weights."""

    @helper
    def scales(row, n, at):
        offset = pairs(n) * quant_bytes + which * (n // 32) * 2
        return first_f16(row, offset + at // 32 * 2, n // 32 - at // 32)

    return scales


@helper
def repack_nibbles(source, first, block, target, n):
    """The nibbles of GGUF blocks of so many bytes, 16 bytes from byte `first` of each, to the repacked row's front."""
    for i in range(n // 64):
        a, b = load16(source, first + 2 * i * block), load16(source, first + (2 * i + 1) * block)
        store32(target, 32 * i, join((a & 15) | (b << 4), (a >> 4) | (b & 240)))
    if n % 64:
        a = load16(source, first + n // 64 * 2 * block)
        store32(target, n // 64 * 32, join(a & 15, a >> 4))


def _repack(name, block, has_min, bits):
    """From GGUF blocks of so many bytes: scale, [minimum], [fifth bits, 4 bytes], quants."""
    head = 4 if has_min else 2
    quant_bytes = {4: 32, 5: 40, 8: 64}[bits]

    def repack(source_address, target_address, n):
        source, target = u8(source_address), u8(target_address)
        scales = pairs(n) * quant_bytes
        mins = scales + n // 32 * 2
        if bits == 4:
            repack_nibbles(source, head, block, target, n)
        if bits == 5:
            repack_nibbles(source, head + 4, block, target, n)
        for b in range(n // 32):
            s = b * block
            target[scales + 2 * b] = source[s]
            target[scales + 2 * b + 1] = source[s + 1]
            if has_min:
                target[mins + 2 * b] = source[s + 2]
                target[mins + 2 * b + 1] = source[s + 3]
            if bits == 5:
                for i in range(4):
                    target[pairs(n) * 32 + b * 4 + i] = source[s + head + i]
            if bits == 8:
                store16(target, b * 32, load16(source, s + 2))
                store16(target, b * 32 + 16, load16(source, s + 18))

    return kernel(REPACK, f"repack_{name}")(repack)


def _format(kind, bits, quants, *, offset=0, has_min=False):
    name = kind.name.lower()
    quant_bytes = {4: 32, 5: 40, 8: 64}[bits]
    block = (4 if has_min else 2) + {4: 16, 5: 20, 8: 32}[bits]
    scales, mins = halves_behind(quant_bytes), halves_behind(quant_bytes, 1) if has_min else None
    dot, axpy, unpack = make_kernels(name, 32, quants, scales, mins, offset=offset, signed=bits == 8)

    def row_bytes(n: int) -> int:
        return -(-n // 64) * quant_bytes + n // 32 * (4 if has_min else 2)

    return Format(kind, 32, has_min, row_bytes, _repack(name, block, has_min, bits), dot, axpy, unpack)


FORMATS: tuple[Format, ...] = (
    _format(GGMLType.Q4_0, 4, nibbles, offset=8),
    _format(GGMLType.Q4_1, 4, nibbles, has_min=True),
    _format(GGMLType.Q5_0, 5, _five_bits, offset=16),
    _format(GGMLType.Q5_1, 5, _five_bits, has_min=True),
    _format(GGMLType.Q8_0, 8, _bytes),
)
