"""Weights from a file's tensor into the layout that their kernels read, by all threads of a team.

A slice of rows at a time, and the file's pages behind it are given back: no more than one copy of a tensor is in
memory, and the slice.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import GGMLType, GGUFError, Tensor
from powerinfer_cli.kernels.arena import Arena, arena_bytes
from powerinfer_cli.kernels.formats import FORMATS, SLACK, Format
from powerinfer_cli.kernels.formats.convert import conversion, convert
from powerinfer_cli.kernels.jit import Kernel, kernel
from powerinfer_cli.kernels.program import Operation, assemble
from powerinfer_cli.kernels.rows import WeightRows, repack_row
from powerinfer_cli.kernels.simd import i64
from powerinfer_cli.kernels.team import FIRST, OPERATION, Team, take
from powerinfer_cli.kernels.vectors import aligned

__all__ = ["pack", "packed_bytes", "packing_kernels"]

SLICE_BYTES = 1 << 24  # of the file, between two calls of the progress function
SLICE_NUMBERS = 1 << 20  # converted at once
ROWS_AT_ONCE = 8  # a thread's piece of work

Bytes = npt.NDArray[np.uint8]
OnNote = Callable[[str], None]
OnProgress = Callable[[int, int], None]


@kernel(OPERATION)
def repack_rows(address, worker):
    op = i64(address)
    source, source_stride, target, target_stride = op[FIRST], op[FIRST + 1], op[FIRST + 2], op[FIRST + 3]
    n_rows, n_cols, repack = op[FIRST + 4], op[FIRST + 5], op[FIRST + 6]
    while True:
        begin = take(op) * ROWS_AT_ONCE
        if begin >= n_rows:
            return
        for i in range(begin, min(begin + ROWS_AT_ONCE, n_rows)):
            repack_row(repack, source + i * source_stride, target + i * target_stride, n_cols)


def packing_kernels(kinds: Iterable[GGMLType]) -> Iterator[Kernel]:
    """Those that tensors of these types are packed with, and those that read their rows."""
    yield repack_rows
    for kind in kinds:
        format_ = FORMATS.get(kind) or FORMATS[conversion(kind)]
        found = (format_.repack, format_.dot, format_.axpy, format_.axpy4, format_.unpack)
        yield from (one for one in found if one is not None)


def packed_bytes(tensor: Tensor, *, repack: bool = True) -> int:
    """How much of an arena a tensor takes; 0 if its rows stay in the file. Raises GGUFError: it stores no weights."""
    format_ = FORMATS.get(tensor.type)
    if format_ is not None and (format_.repack is None or not repack):
        return 0
    if format_ is None:
        try:
            format_ = FORMATS[conversion(tensor.type)]
        except GGUFError as error:
            raise GGUFError(f"the tensor {tensor.name!r}: {error}") from error
    return arena_bytes(tensor.n_rows * format_.row_bytes(tensor.shape[-1]) + SLACK)


def pack(
    tensor: Tensor,
    team: Team,
    *,
    arena: Arena | None = None,
    repack: bool = True,
    on_note: OnNote | None = None,
    on_progress: OnProgress | None = None,
) -> WeightRows:
    """The tensor's rows, all leading dimensions as one. `on_progress(bytes done, all bytes)` counts the file's bytes.

    Without `repack` they stay in the mapped file and each row is rearranged when it is used, in the team's scratch.
    Types that have no kernels are converted in any case, and a line for the user goes to `on_note`. `arena`: has
    `packed_bytes` left for them; None: they get memory of their own. Raises MemoryError.
    """
    arena = arena or Arena(packed_bytes(tensor, repack=repack))
    tensor = tensor.kept()
    format_ = FORMATS.get(tensor.type)
    if format_ is None:
        rows = _converted(tensor, team, arena, on_note, on_progress)
    elif format_.repack is None or not repack:
        rows = _as_in_file(tensor, format_, team)
    else:
        rows = _repacked(tensor, format_, team, arena, on_progress)
    if on_progress:
        on_progress(tensor.nbytes, tensor.nbytes)
    return rows


def _as_in_file(tensor: Tensor, format_: Format, team: Team) -> WeightRows:
    source = tensor.rows()
    scratch = None
    if format_.repack is not None:
        stride = -(-(format_.row_bytes(tensor.shape[-1]) + SLACK) // 64) * 64  # no cache line belongs to two threads
        scratch = aligned(team.size * stride).reshape(team.size, stride)
    return WeightRows(format_, len(source), tensor.shape[-1], tensor.data, tensor.row_bytes, scratch)


def _repacked(tensor: Tensor, format_: Format, team: Team, arena: Arena, on_progress: OnProgress | None) -> WeightRows:
    source, n_cols = tensor.rows(), tensor.shape[-1]
    target = _Target(format_, len(source), n_cols, arena)
    step = max(1, SLICE_BYTES // max(1, tensor.row_bytes))
    for begin in range(0, len(source), step):
        part = source[begin : begin + step]
        target.put(begin, part, team)
        _done(tensor, begin, begin + len(part), on_progress)
    return target.rows()


def _converted(
    tensor: Tensor, team: Team, arena: Arena, on_note: OnNote | None, on_progress: OnProgress | None
) -> WeightRows:
    try:
        kind = conversion(tensor.type)
        if on_note:
            on_note(f"{tensor.type.name} converted to {kind.name}")
        source, n_cols = tensor.rows(), tensor.shape[-1]
        target = _Target(FORMATS[kind], len(source), n_cols, arena)
        step = max(1, SLICE_NUMBERS // max(1, n_cols))
        for begin in range(0, len(source), step):
            part = source[begin : begin + step]
            target.put(begin, convert(part, tensor.type), team)
            _done(tensor, begin, begin + len(part), on_progress)
    except GGUFError as error:
        raise GGUFError(f"the tensor {tensor.name!r}: {error}") from error
    return target.rows()


def _done(tensor: Tensor, begin: int, end: int, on_progress: OnProgress | None) -> None:
    tensor.drop_pages(begin * tensor.row_bytes, end * tensor.row_bytes)
    if on_progress:
        on_progress(end * tensor.row_bytes, tensor.nbytes)


class _Target:
    """Memory for the rows of a matrix in their kernels' layout."""

    def __init__(self, format_: Format, n_rows: int, n_cols: int, arena: Arena) -> None:
        self._format, self._n_rows, self._n_cols = format_, n_rows, n_cols
        self._stride = format_.row_bytes(n_cols)
        self._memory = arena.take(n_rows * self._stride + SLACK)

    def put(self, row: int, part: Bytes, team: Team) -> None:
        """GGUF rows of the target's type, from this row of the target on."""
        place = self._memory[row * self._stride :]
        if self._format.repack is None:
            place[: part.size] = part.ravel()
            return
        operands = part, part.shape[1], place, self._stride, len(part), self._n_cols, self._format.repack.address
        team.run(assemble([Operation(repack_rows, operands)]).table)

    def rows(self) -> WeightRows:
        return WeightRows(self._format, self._n_rows, self._n_cols, self._memory, self._stride)
