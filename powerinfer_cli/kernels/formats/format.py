"""What a weight format is to the kernels, and the kernels that all block formats share.

A weight is  scale * q + min,  q a small integer, scale (and min, where there is one) per group of 16 or 32 weights.
At load each GGUF row is rearranged ("repacked") in chunks of 16 groups: in each all quants, then the scales, which load
as one vector. No value changes. The last chunk is as long as any; groups behind the row's end are zeros.

A lane of a vector belongs to a group: the first four quants of each of the 16 groups come first (64 bytes, a vector of
quants), then the next four of each... So one instruction multiplies and adds 64 quants into 16 groups' sums, and these
meet the 16 scales without any exchange between lanes. Column 32j + 4k + b of a chunk of groups of 32 is byte b of word
16k + j; with groups of 16 it is column 16j + 4k + b. Sums of rows (AXPY) keep that order: y[16 * (4k + b) + j].

The input of a dot product with block formats is a quantised vector, a record of `record_bytes(n)` bytes: with
P = n rounded up to 512, int8 q [P], float32 d [P/32], int32 sums of q per 32 [P/32], int32 sums of q per 16 [P/16],
q again in the order of chunks of groups of 32 [P] and of 16 [P]; x = d * q, and zeros behind n. For float formats it
is float32 [n].

Where short rows are asked all at once they are bundled, 16 at a time: a chunk's 16 groups are those of the 16 rows in
the same columns, so that none of it is empty. A bundle is a chunk for each 32 columns; rows that are not there are
zeros. Rows that are multiplied whole are bundled as well: `bundles` says what their chunks are where GGUF has
superblocks.

Kernels read up to 1 KiB behind a row (and use nothing of it): buffers of rows need `SLACK` bytes at their end.
"""

from collections.abc import Callable
from dataclasses import dataclass

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.jit import Kernel, types

__all__ = [
    "AXPY",
    "AXPY4",
    "BUNDLE",
    "CHUNK",
    "DOT",
    "DOT_BUNDLE",
    "DOT_FEW",
    "DOT_SOME",
    "DOT_WHOLE",
    "REPACK",
    "ROWS_AT_ONCE",
    "SLACK",
    "UNPACK",
    "UNPACK_BUNDLE",
    "Format",
    "Whole",
    "padded",
    "record_bytes",
]

CHUNK = 512
BUNDLE = 16  # rows
SLACK = 1024
ROWS_AT_ONCE = 8

# Rows and vectors are addresses; n is the number of weights in the whole row; begin and end are multiples of 64
# (the end may also be n). Quants are written in whole 64s, y is read and written in whole chunks.
DOT = types.float32(types.int64, types.int64, types.int64, types.int64)
#    (row, x, n, ahead) -> row . x; on the way memory is asked for as many bytes from `ahead` on, any address, as the
#    row has: evenly, for the CPU drops requests that come in bursts
DOT_FEW = types.void(*[types.int64] * 8)
#    (rows, stride, n_rows, x, n_tokens, n, ahead, out): out[r, t] = row r . token t, to the bit as DOT has it; up to
#    ROWS_AT_ONCE rows, `stride` bytes apart, and FEW tokens, which x has in panels (see `token_panels`). out float32
#    [ROWS_AT_ONCE, FEW]: of the last panel all is written, and of an odd number of rows one more. From `ahead` on
#    memory is asked for as many rows, as far apart
DOT_SOME = types.void(*[types.int64] * 5)
#    (row, xs, n, ahead, out): out[k] = row . token k, of four tokens of panels, whose first vectors are at the
#    addresses xs, int64 [4]; out float32 [4]
DOT_BUNDLE = types.void(*[types.int64] * 6)
#    (bundle, xs, n_tokens, n, aheads, out): out[16 t + j] = row j . x of the address xs[t]; each token's as if it were
#    alone. xs and out have room for n_tokens rounded up to 4. aheads int64 [64]: with one token, what is asked of
#    memory with each chunk, by turns: as many bytes as the chunk has
DOT_WHOLE = types.void(*[types.int64] * 6)
#    (bundle, x, n_tokens, n, following, out): out[16 t + j] = row j . token t; each token's as if it were alone. x: a
#    record, or of more tokens the panels of `pack_bundle_tokens`; out float32 [n_tokens rounded up to 8, 16]. Memory is
#    asked for some KiB ahead: for this bundle, then for the one at the address `following`
UNPACK_BUNDLE = types.void(*[types.int64] * 7)
#    (bundle, begin, end, added, panel, scales, mins): quants + added, scales, mins of columns begin to end, multiples
#    of 32, as half of what `panels` says
AXPY = types.void(types.int64, types.int64, types.float32, types.int64)  # (row, n, a, y): y += a * row
AXPY4 = types.void(types.int64, types.int64, types.int64, types.int64)
#    (rows, n, a, y): y += a[k] * row k for the first four of rows, int64 [8]; a float32 [4]. The other four are asked
#    of memory meanwhile, evenly: requests in bursts are dropped
UNPACK = types.void(*[types.int64] * 7)
#    (row, n, begin, end, q, scales, mins): int8 q [end - begin], float32 scales and mins [(end - begin) / group];
#    for float formats q is float32 [end - begin] and the others are unused
REPACK = types.void(types.int64, types.int64, types.int64)
#    (GGUF row, repacked row, n); of bundles: (blocks of 16 rows, one behind the other; a bundle's chunk; CHUNK)


@dataclass(frozen=True)
class Whole:
    """How rows lie in bundles to be multiplied whole: in chunks of so many columns and bytes."""

    columns: int
    chunk_bytes: int
    repack: Kernel
    dot: Kernel
    unpack: Kernel

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        return self.repack, self.dot, self.unpack

    def bundle_bytes(self, n: int) -> int:
        """Of 16 rows of n weights."""
        return n // self.columns * self.chunk_bytes


@dataclass(frozen=True)
class Format:
    """One weight format. `group` weights share a scale (0: a float format, whose rows stay as they are in the file).

    bits: of quants as they are unpacked: within -2**(bits - 1)..2**(bits - 1) - 1, or with minima 0..2**bits - 1.
    offset: what products are made of quants and it.
    """

    type: GGMLType
    group: int
    has_min: bool
    bits: int
    row_bytes: Callable[[int], int]  # of a repacked row of n weights
    repack: Kernel | None
    dot: Kernel
    dot_few: Kernel
    dot_some: Kernel
    dot_bundle: Kernel | None  # of rows that are asked
    axpy: Kernel
    axpy4: Kernel
    unpack: Kernel
    whole: Whole | None = None
    offset: int = 0

    @property
    def chunk_bytes(self) -> int:
        """Of 16 groups, repacked."""
        return self.row_bytes(16 * self.group)

    @property
    def is_float(self) -> bool:
        return self.group == 0


def padded(n: int) -> int:
    """P: n rounded up to whole chunks."""
    return (n + CHUNK - 1) // CHUNK * CHUNK


def record_bytes(n: int) -> int:
    """Bytes of a quantised vector of n numbers."""
    return (n + CHUNK - 1) // CHUNK * CHUNK * 7 // 2
