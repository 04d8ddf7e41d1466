"""GGUF's first block formats: 32 weights with a float16 scale (and minimum).  Source: ggml-common.h, ggml-quants.c.

Repacked chunks of 512 weights, 64 (two blocks) at a time, blocks beyond the row's end left out:
Q4_0, Q4_1   32 bytes: the first block's weights in the low nibbles, the second's in the high ones
Q5_0, Q5_1   the same, and behind all of them 64 bytes: the fifth bit of weight 64c + j is bit c of byte j
Q8_0         64 bytes as they are
then float16 scales [m / 32], then float16 minima [m / 32], m being the weights of the chunk.
"""

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.formats.blocks import make_format
from powerinfer_cli.kernels.formats.format import Format
from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import bits64, first_f16, join, load16, load32, load64, store32, store64, zero64

__all__ = ["FORMATS", "copy_halves", "five_bits", "halves_behind", "nibbles", "pairs", "repack_nibbles"]


@helper
def pairs(m):
    """Pairs of blocks that hold m weights; the last may lack its second block."""
    return (m + 63) >> 6


@helper
def nibbles(chunk, m, at):
    """64 four-bit quants at the chunk's front."""
    packed = load32(chunk, at >> 1)
    return join(packed & 15, packed >> 4)


@helper
def five_bits(chunk, m, at):
    """64 five-bit quants: nibbles, and behind all of them 64 bytes of the fifth bits."""
    return nibbles(chunk, m, at) | (((load64(chunk, pairs(m) * 32) >> (at >> 6)) & 1) << 4)


@helper
def _bytes(chunk, m, at):
    return load64(chunk, at)


def halves_behind(pair_bytes, extra=0, which=0):
    """scales(chunk, m) of the which-th float16 array behind so many bytes for each 64 weights and `extra` ones."""

    @helper
    def scales(chunk, m):
        groups = m >> 5
        return first_f16(chunk, pairs(m) * pair_bytes + extra + which * 2 * groups, groups)

    return scales


@helper
def repack_nibbles(source, first, block, target, m):
    """The nibbles of GGUF blocks of so many bytes, 16 bytes from byte `first` of each, to the chunk's front."""
    for i in range(m >> 6):
        a, b = load16(source, first + 2 * i * block), load16(source, first + (2 * i + 1) * block)
        store32(target, 32 * i, join((a & 15) | (b << 4), (a >> 4) | (b & 240)))
    if m & 63:
        a = load16(source, first + (m >> 6) * 2 * block)
        store32(target, (m >> 6) * 32, join(a & 15, a >> 4))


@helper
def copy_halves(source, first, block, target, t, m):
    """A float16 at byte `first` of each GGUF block to an array at byte t."""
    for b in range(m >> 5):
        target[t + 2 * b] = source[first + b * block]
        target[t + 2 * b + 1] = source[first + b * block + 1]


@helper
def _repack_fifth_bits(source, first, block, target, t, m):
    """32 bits at byte `first` of each GGUF block, for up to 16 blocks, to 64 bytes."""
    store64(target, t, zero64())
    for b in range(m >> 5):
        for i in range(4):
            target[t + 4 * b + i] = source[first + b * block + i]
    planes = bits64(target, t, 1)
    for c in range(1, 8):
        planes = planes | bits64(target, t + 8 * c, 1 << c)
    store64(target, t, planes)


def _repack(block, has_min, bits, pair_bytes, extra):
    """GGUF blocks of so many bytes: scale, [minimum], [fifth bits, 4 bytes], quants."""
    head = 4 if has_min else 2

    @helper
    def repack(source, target, m):
        if bits == 4:
            repack_nibbles(source, head, block, target, m)
        if bits == 5:
            repack_nibbles(source, head + 4, block, target, m)
            _repack_fifth_bits(source, head, block, target, pairs(m) * 32, m)
        if bits == 8:
            for b in range(m >> 5):
                store32(target, b * 32, load32(source, b * block + head))
        scales = pairs(m) * pair_bytes + extra
        copy_halves(source, 0, block, target, scales, m)
        if has_min:
            copy_halves(source, 2, block, target, scales + (m >> 5) * 2, m)

    return repack


def _format(kind, bits, quants, *, offset=0, has_min=False):
    pair_bytes, extra = 64 if bits == 8 else 32, 64 if bits == 5 else 0
    scales, mins = halves_behind(pair_bytes, extra), halves_behind(pair_bytes, extra, 1) if has_min else None

    def chunk_bytes(m: int) -> int:
        return -(-m // 64) * pair_bytes + extra + m // 32 * (4 if has_min else 2) if m else 0

    repack = _repack(BLOCK[kind][1], has_min, bits, pair_bytes, extra)
    return make_format(kind, 32, chunk_bytes, repack, quants, scales, mins, offset, signed=bits == 8)


FORMATS: tuple[Format, ...] = (
    _format(GGMLType.Q4_0, 4, nibbles, offset=8),
    _format(GGMLType.Q4_1, 4, nibbles, has_min=True),
    _format(GGMLType.Q5_0, 5, five_bits, offset=16),
    _format(GGMLType.Q5_1, 5, five_bits, has_min=True),
    _format(GGMLType.Q8_0, 8, _bytes),
)
