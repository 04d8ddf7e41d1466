"""Formats whose four-bit quants are numbers of a list: IQ4_NL, IQ4_XS, MXFP4.  Source: ggml-common.h, ggml-quants.c.

Repacked chunks of 512 weights: nibbles (see `layouts`), then scales:
  IQ4_NL  per 32 weights a float16
  IQ4_XS  per 32 weights a signed byte, behind them per 256 weights a float16; their product
  MXFP4   per 32 weights a byte e: 2**(e - 128), half of what the standard says, for the list holds doubled numbers
"""

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.formats.blocks import make_format
from powerinfer_cli.kernels.formats.bundles import Tail
from powerinfer_cli.kernels.formats.format import Format
from powerinfer_cli.kernels.formats.layouts import FOUR, Layout
from powerinfer_cli.kernels.formats.legacy import copy_halves, halves, nibbles_of_blocks
from powerinfer_cli.kernels.jit import RUNG, Products, helper
from powerinfer_cli.kernels.simd import load16, load_i8, load_powers, lookup, store16, table16, two_f16

__all__ = ["FORMATS"]

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

# Products with unsigned bytes are cheaper, so the lists are shifted to begin at 0, where the rung's products allow
# for bytes that large.
IQ4_OFFSET = 127 if RUNG.products is Products.UNSIGNED else 0
E2M1_OFFSET = 12

_SCALES = FOUR.size


def _layout(numbers, offset, bits):
    table, indices = table16([q + offset for q in numbers]), FOUR.quants

    @helper
    def quants(chunk, k):
        return lookup(table(), indices(chunk, k))

    return Layout(FOUR.size, bits, quants, FOUR.pack)


_IQ4, _E2M1 = _layout(IQ4, IQ4_OFFSET, 8), _layout(E2M1_DOUBLED, E2M1_OFFSET, 5)


@helper
def _xs_scales(chunk):
    return load_i8(chunk, _SCALES) * two_f16(chunk, _SCALES + 16)


@helper
def _mx_scales(chunk):
    return load_powers(chunk, _SCALES)


@helper
def _read_nl(source, q, m):
    """Blocks of 18 bytes: d, nibbles [16]."""
    nibbles_of_blocks(source, 2, 18, q, m)


@helper
def _put_nl_scales(source, target, m):
    copy_halves(source, 0, 18, target, _SCALES, m)


@helper
def _read_xs(source, q, m):
    """Blocks of 136 bytes: d, two high bits of 8 scales [2], their low nibbles [4], nibbles [128]."""
    for b in range(m >> 8):
        for i in range(8):
            packed = load16(source, b * 136 + 8 + 16 * i)
            store16(q, b * 256 + 32 * i, packed & 15)
            store16(q, b * 256 + 32 * i + 16, packed >> 4)


@helper
def _put_xs_scales(source, target, m):
    """They are stored plus 32."""
    for b in range(m >> 8):
        s = b * 136
        for i in range(8):
            high = source[s + 2 + i // 4] >> (i % 4 * 2) & 3
            low = source[s + 4 + i // 2] >> (i % 2 * 4) & 15
            target[_SCALES + b * 8 + i] = (low | (high << 4)) - 32
        target[_SCALES + 16 + b * 2] = source[s]
        target[_SCALES + 16 + b * 2 + 1] = source[s + 1]


@helper
def _read_mx(source, q, m):
    """Blocks of 17 bytes: the exponent, nibbles [16]."""
    nibbles_of_blocks(source, 1, 17, q, m)


@helper
def _put_mx_scales(source, target, m):
    for b in range(m >> 5):
        target[_SCALES + b] = source[17 * b]


@helper
def _xs_scale(chunk, at):
    return load_i8(chunk, at)


_XS = Tail((_SCALES,), (_SCALES + 16,), _xs_scale)


def _format(kind, layout, extra, read, put_scales, scales, offset, tail=None):
    return make_format(kind, 32, layout, extra, read, put_scales, scales, offset=offset, signed=offset == 0, tail=tail)


FORMATS: tuple[Format, ...] = (
    _format(GGMLType.IQ4_NL, _IQ4, 32, _read_nl, _put_nl_scales, halves(_SCALES), IQ4_OFFSET),
    _format(GGMLType.IQ4_XS, _IQ4, 20, _read_xs, _put_xs_scales, _xs_scales, IQ4_OFFSET, _XS),
    _format(GGMLType.MXFP4, _E2M1, 16, _read_mx, _put_mx_scales, _mx_scales, E2M1_OFFSET),
)
