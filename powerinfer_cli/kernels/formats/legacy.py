"""GGUF's first block formats: 32 weights with a float16 scale (and minimum).  Source: ggml-common.h, ggml-quants.c.

Repacked chunks of 512 weights: quants (see `layouts`), float16 scales [16], float16 minima [16] where there are any.
"""

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.formats.blocks import make_format
from powerinfer_cli.kernels.formats.format import Format
from powerinfer_cli.kernels.formats.layouts import BYTES, BYTES_OFFSET, FIVE, FOUR
from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import (
    address_of,
    bits64,
    load16,
    load32,
    load64,
    load_f16,
    stack_f32,
    store16,
    store32,
    store64,
    u8,
)

__all__ = ["FORMATS", "copy_halves", "halves", "nibbles_of_blocks"]


def halves(offset):
    """scales(chunk): 16 float16 from a byte of the chunk on."""

    @helper
    def scales(chunk):
        return load_f16(chunk, offset)

    return scales


@helper
def copy_halves(source, first, block, target, t, m):
    """A float16 at byte `first` of each GGUF block to an array at byte t."""
    for b in range(m >> 5):
        target[t + 2 * b] = source[first + b * block]
        target[t + 2 * b + 1] = source[first + b * block + 1]


@helper
def nibbles_of_blocks(source, first, block, q, m):
    """The quants of GGUF blocks of so many bytes, which have 16 bytes of nibbles from byte `first` on."""
    for b in range(m >> 5):
        packed = load16(source, first + b * block)
        store16(q, 32 * b, packed & 15)
        store16(q, 32 * b + 16, packed >> 4)


@helper
def _fifth_bits_of_blocks(source, first, block, q, m):
    """Adds the quants' fifth bits: 32 bits from byte `first` of each GGUF block on."""
    bits = u8(address_of(stack_f32(16)))
    for b in range(m >> 5):
        for i in range(4):
            bits[4 * b + i] = source[first + b * block + i]
    for k in range((m + 63) >> 6):
        store64(q, 64 * k, load64(q, 64 * k) | bits64(bits, 8 * k, 16))


def _format(kind, layout, *, offset=0, has_min=False):
    block, head = BLOCK[kind][1], 4 if has_min else 2
    fifth, whole, start = layout is FIVE, layout is BYTES, layout.size

    @helper
    def read(source, q, m):
        if whole:
            for b in range(m >> 5):
                store32(q, b * 32, load32(source, b * block + head))
        else:
            nibbles_of_blocks(source, head + 4 if fifth else head, block, q, m)
        if fifth:
            _fifth_bits_of_blocks(source, head, block, q, m)

    @helper
    def put_scales(source, target, m):
        copy_halves(source, 0, block, target, start, m)
        if has_min:
            copy_halves(source, 2, block, target, start + 32, m)

    mins = halves(start + 32) if has_min else None
    extra, signed = 64 if has_min else 32, whole and offset == 0
    return make_format(kind, 32, layout, extra, read, put_scales, halves(start), mins, offset, signed, asked=True)


FORMATS: tuple[Format, ...] = (
    _format(GGMLType.Q4_0, FOUR, offset=8),
    _format(GGMLType.Q4_1, FOUR, has_min=True),
    _format(GGMLType.Q5_0, FIVE, offset=16),
    _format(GGMLType.Q5_1, FIVE, has_min=True),
    _format(GGMLType.Q8_0, BYTES, offset=BYTES_OFFSET),
)
