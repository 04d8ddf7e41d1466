"""Formats whose four-bit quants are numbers of a list: IQ4_NL, IQ4_XS, MXFP4.  Source: ggml-common.h, ggml-quants.c.

Repacked rows: nibbles as in `legacy`, then scales:
  IQ4_NL  per 32 weights a float16
  IQ4_XS  per 32 weights a signed byte, behind them per 256 weights a float16; their product
  MXFP4   per 32 weights a byte e: 2**(e - 128), half of what the standard says, for the list holds doubled numbers
"""

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.formats.blocks import make_kernels
from powerinfer_cli.kernels.formats.format import REPACK, Format
from powerinfer_cli.kernels.formats.kquants import two_d
from powerinfer_cli.kernels.formats.legacy import halves_behind, nibbles, pairs, repack_nibbles
from powerinfer_cli.kernels.jit import RUNG, Rung, helper, kernel
from powerinfer_cli.kernels.simd import first_powers, load_i8, lookup, table16, u8

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
def _iq4_quants(row, n, at):
    return lookup(_iq4_list(), nibbles(row, n, at))


@helper
def _e2m1_quants(row, n, at):
    return lookup(_e2m1_list(), nibbles(row, n, at))


@helper
def _xs_scales(row, n, at):
    return load_i8(row, n // 2 + at // 32) * two_d(row, n // 2 + n // 32, n, at)


@helper
def _mx_scales(row, n, at):
    return first_powers(row, pairs(n) * 32 + at // 32, n // 32 - at // 32)


def _repack_nl(source_address, target_address, n):
    """Blocks of 18 bytes: d, nibbles [16]."""
    source, target = u8(source_address), u8(target_address)
    repack_nibbles(source, 2, 18, target, n)
    scales = pairs(n) * 32
    for b in range(n // 32):
        target[scales + 2 * b] = source[18 * b]
        target[scales + 2 * b + 1] = source[18 * b + 1]


def _repack_xs(source_address, target_address, n):
    """Blocks of 136 bytes: d, two high bits of 8 scales [2], their low nibbles [4], nibbles [128]; scales less 32."""
    source, target = u8(source_address), u8(target_address)
    scales = n // 2
    for b in range(n // 256):
        s = b * 136
        repack_nibbles(u8(source_address + s), 8, 16, u8(target_address + b * 128), 256)
        for i in range(8):
            high = source[s + 2 + i // 4] >> (i % 4 * 2) & 3
            low = source[s + 4 + i // 2] >> (i % 2 * 4) & 15
            target[scales + b * 8 + i] = (low | (high << 4)) - 32
        target[scales + n // 32 + b * 2] = source[s]
        target[scales + n // 32 + b * 2 + 1] = source[s + 1]


def _repack_mx(source_address, target_address, n):
    """Blocks of 17 bytes: the exponent, nibbles [16]."""
    source, target = u8(source_address), u8(target_address)
    repack_nibbles(source, 1, 17, target, n)
    for b in range(n // 32):
        target[pairs(n) * 32 + b] = source[17 * b]


def _format(kind, row_bytes, repack, quants, scales, offset):
    name = kind.name.lower()
    dot, axpy, unpack = make_kernels(name, 32, quants, scales, offset=offset, signed=offset == 0)
    return Format(kind, 32, False, row_bytes, kernel(REPACK, f"repack_{name}")(repack), dot, axpy, unpack)


def _nl_bytes(n: int) -> int:
    return -(-n // 64) * 32 + n // 32 * 2


def _xs_bytes(n: int) -> int:
    return n // 256 * 138


def _mx_bytes(n: int) -> int:
    return -(-n // 64) * 32 + n // 32


FORMATS: tuple[Format, ...] = (
    _format(GGMLType.IQ4_NL, _nl_bytes, _repack_nl, _iq4_quants, halves_behind(32), IQ4_OFFSET),
    _format(GGMLType.IQ4_XS, _xs_bytes, _repack_xs, _iq4_quants, _xs_scales, IQ4_OFFSET),
    _format(GGMLType.MXFP4, _mx_bytes, _repack_mx, _e2m1_quants, _mx_scales, E2M1_OFFSET),
)
