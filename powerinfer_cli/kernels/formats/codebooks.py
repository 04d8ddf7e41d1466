"""Formats whose four-bit quants are numbers of a list: IQ4_NL, IQ4_XS, MXFP4.  Source: ggml-common.h, ggml-quants.c.

Repacked chunks of 512 weights: nibbles as in `legacy`, then scales:
  IQ4_NL  per 32 weights a float16
  IQ4_XS  per 32 weights a signed byte, behind them per 256 weights a float16; their product
  MXFP4   per 32 weights a byte e: 2**(e - 128), half of what the standard says, for the list holds doubled numbers
"""

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.formats.blocks import make_format
from powerinfer_cli.kernels.formats.format import Format
from powerinfer_cli.kernels.formats.kquants import two_d
from powerinfer_cli.kernels.formats.legacy import copy_halves, halves_behind, nibbles, pairs, repack_nibbles
from powerinfer_cli.kernels.jit import RUNG, Rung, helper
from powerinfer_cli.kernels.simd import first_powers, join, load16, load_i8, lookup, store32, table16

__all__ = ["FORMATS"]

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

# Products with unsigned bytes are cheaper, so the lists are shifted to begin at 0, where the rung's products allow
# for bytes that large.
IQ4_OFFSET = 127 if RUNG is Rung.VNNI else 0
E2M1_OFFSET = 12

_iq4_list = table16([q + IQ4_OFFSET for q in IQ4])
_e2m1_list = table16([q + E2M1_OFFSET for q in E2M1_DOUBLED])


@helper
def _iq4_quants(chunk, m, at):
    return lookup(_iq4_list(), nibbles(chunk, m, at))


@helper
def _e2m1_quants(chunk, m, at):
    return lookup(_e2m1_list(), nibbles(chunk, m, at))


@helper
def _xs_scales(chunk, m):
    return load_i8(chunk, m >> 1) * two_d(chunk, (m >> 1) + (m >> 5), m)


@helper
def _mx_scales(chunk, m):
    return first_powers(chunk, pairs(m) * 32, m >> 5)


@helper
def _repack_nl(source, target, m):
    """Blocks of 18 bytes: d, nibbles [16]."""
    repack_nibbles(source, 2, 18, target, m)
    copy_halves(source, 0, 18, target, pairs(m) * 32, m)


@helper
def _repack_xs(source, target, m):
    """Blocks of 136 bytes: d, two high bits of 8 scales [2], their low nibbles [4], nibbles [128]; scales less 32."""
    scales = m >> 1
    for b in range(m >> 8):
        s = b * 136
        for i in range(4):
            first, second = load16(source, s + 8 + 32 * i), load16(source, s + 24 + 32 * i)
            packed = join((first & 15) | (second << 4), (first >> 4) | (second & 240))
            store32(target, b * 128 + 32 * i, packed)
        for i in range(8):
            high = source[s + 2 + i // 4] >> (i % 4 * 2) & 3
            low = source[s + 4 + i // 2] >> (i % 2 * 4) & 15
            target[scales + b * 8 + i] = (low | (high << 4)) - 32
        target[scales + (m >> 5) + b * 2] = source[s]
        target[scales + (m >> 5) + b * 2 + 1] = source[s + 1]


@helper
def _repack_mx(source, target, m):
    """Blocks of 17 bytes: the exponent, nibbles [16]."""
    repack_nibbles(source, 1, 17, target, m)
    for b in range(m >> 5):
        target[pairs(m) * 32 + b] = source[17 * b]


def _nl_bytes(m: int) -> int:
    return -(-m // 64) * 32 + m // 32 * 2


def _xs_bytes(m: int) -> int:
    return m // 256 * 138


def _mx_bytes(m: int) -> int:
    return -(-m // 64) * 32 + m // 32


def _format(kind, chunk_bytes, repack, quants, scales, offset):
    return make_format(kind, 32, chunk_bytes, repack, quants, scales, offset=offset, signed=offset == 0)


FORMATS: tuple[Format, ...] = (
    _format(GGMLType.IQ4_NL, _nl_bytes, _repack_nl, _iq4_quants, halves_behind(32), IQ4_OFFSET),
    _format(GGMLType.IQ4_XS, _xs_bytes, _repack_xs, _iq4_quants, _xs_scales, IQ4_OFFSET),
    _format(GGMLType.MXFP4, _mx_bytes, _repack_mx, _e2m1_quants, _mx_scales, E2M1_OFFSET),
)
