"""Weight matrices as kernels see them: rows in a format's layout, described by a small table of numbers."""

from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.vectors import aligned
from powerinfer_cli.kernels.formats import Format
from powerinfer_cli.kernels.jit import Kernel, helper, types
from powerinfer_cli.kernels.simd import calling

__all__ = [
    "AXPY4_ROWS",
    "AXPY_ROW",
    "CHUNK_BYTES",
    "COLUMNS",
    "DOT_BUNDLE",
    "DOT_ROW",
    "DOT_WHOLE",
    "GROUP",
    "HAS_MIN",
    "OFFSET",
    "REPACK_ROW",
    "ROWS",
    "ROW_BYTES",
    "UNPACK_BUNDLE",
    "UNPACK_ROW",
    "Bundled",
    "WeightRows",
    "axpy4_rows",
    "axpy_row",
    "dot_bundle",
    "dot_few",
    "dot_row",
    "dot_some",
    "dot_whole",
    "repack_row",
    "row_address",
    "row_in_memory",
    "unpack_bundle",
    "unpack_row",
]

# The table, int64. REPACK_ROW is 0 for rows that are in their kernels' layout already; else they are as in the file,
# and each is rearranged on use in the thread's own part of SCRATCH. ROW_BYTES of a row lie together; STRIDE is more
# where rows of other matrices are between. DOT_BUNDLE or DOT_WHOLE is there for rows in bundles, nothing else: row i, a
# multiple of 16, is where its bundle is.
BASE, STRIDE, COLUMNS, ROWS, GROUP, HAS_MIN = range(6)
DOT_ROW, AXPY_ROW, AXPY4_ROWS, UNPACK_ROW, REPACK_ROW, SCRATCH, SCRATCH_STRIDE, ROW_BYTES = range(6, 14)
DOT_BUNDLE, CHUNK_BYTES, DOT_WHOLE, UNPACK_BUNDLE, OFFSET = range(14, 19)

dot_row = calling(types.float32, types.int64, types.int64, types.int64, types.int64)
dot_few = calling(types.void, *[types.int64] * 8)  # a format's DOT_FEW
dot_some = calling(types.void, *[types.int64] * 5)
dot_bundle = calling(types.void, *[types.int64] * 6)  # a format's DOT_BUNDLE
dot_whole = calling(types.void, *[types.int64] * 6)
unpack_bundle = calling(types.void, *[types.int64] * 7)
axpy_row = calling(types.void, types.int64, types.int64, types.float32, types.int64)
axpy4_rows = calling(types.void, types.int64, types.int64, types.int64, types.int64)
unpack_row = calling(types.void, *[types.int64] * 7)
repack_row = calling(types.void, types.int64, types.int64, types.int64)


@helper
def row_in_memory(rows, i):
    """Where row i lies in memory, to be asked for. (Rows that are rearranged on use come from the file.)"""
    return rows[BASE] + i * rows[STRIDE]


@helper
def row_address(rows, i, worker):
    """Where row i is, in its kernels' layout. Valid until this worker asks for another row of the same matrix."""
    if rows[REPACK_ROW] == 0:
        return rows[BASE] + i * rows[STRIDE]
    scratch = rows[SCRATCH] + worker * rows[SCRATCH_STRIDE]
    repack_row(rows[REPACK_ROW], rows[BASE] + i * rows[STRIDE], scratch, rows[COLUMNS])
    return scratch


class Bundled(Enum):
    """What 16 rows are beside each other for: ASKED, a few at a time, by DOT_BUNDLE; WHOLE, products of all."""

    ASKED = "asked"
    WHOLE = "whole"


@dataclass(frozen=True)
class WeightRows:
    """A matrix [n_rows, n_cols]. `data`: its rows, and SLACK bytes behind them if they are repacked."""

    format: Format
    n_rows: int
    n_cols: int
    data: npt.NDArray[np.uint8]
    stride: int  # bytes from one row to the next; other matrices' rows may lie between
    scratch: npt.NDArray[np.uint8] | None = None  # [threads, bytes]: rows are as in the file
    on_disk: bool = False  # in a file that main memory does not hold as a whole; few of them are used at a time
    bundled: Bundled | None = None  # as these kernels of a format read them, and no others
    table: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        f, scratch = self.format, self.scratch
        table = np.zeros(19, np.int64)
        table[BASE], table[STRIDE] = self.data.ctypes.data, self.stride
        table[COLUMNS], table[ROWS] = self.n_cols, self.n_rows
        table[GROUP], table[HAS_MIN], table[OFFSET] = f.group, f.has_min, f.offset
        if self.bundled is None:
            table[DOT_ROW], table[UNPACK_ROW] = f.dot.address, f.unpack.address
            table[AXPY_ROW], table[AXPY4_ROWS] = f.axpy.address, f.axpy4.address
        table[ROW_BYTES] = f.row_bytes(self.n_cols) if scratch is None and not self.bundled else self.stride
        if self.bundled is not None:
            table[CHUNK_BYTES] = f.chunk_bytes
        if self.bundled is Bundled.ASKED and f.dot_bundle is not None:
            table[DOT_BUNDLE] = f.dot_bundle.address
        if self.bundled is Bundled.WHOLE and f.whole is not None:
            table[DOT_WHOLE], table[UNPACK_BUNDLE] = f.whole.dot.address, f.whole.unpack.address
        if scratch is not None and f.repack is not None:
            table[REPACK_ROW] = f.repack.address
            table[SCRATCH], table[SCRATCH_STRIDE] = scratch.ctypes.data, scratch.strides[0]
        object.__setattr__(self, "table", table)

    def for_threads(self, threads: int) -> "WeightRows":
        """The same rows, with scratch for so many threads where they need any."""
        if self.scratch is None or len(self.scratch) >= threads:
            return self
        stride = self.scratch.shape[1]
        return replace(self, scratch=aligned(threads * stride).reshape(threads, stride))

    @property
    def address(self) -> int:
        """Of the table."""
        return self.table.ctypes.data

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        f = self.format
        if self.bundled is Bundled.WHOLE and f.whole is not None:
            return f.whole.dot, f.whole.unpack
        if self.bundled is Bundled.ASKED and f.dot_bundle is not None:
            return (f.dot_bundle,)
        return (f.dot, f.axpy, f.axpy4, f.unpack, *((f.repack,) if f.repack else ()))
