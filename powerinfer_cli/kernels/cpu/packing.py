"""Weights from a file's tensor into the layout that their kernels read, by all threads of a team.

A slice of rows at a time, and the file's pages behind it are given back: no more than one copy of a tensor is in
memory, and the slice.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFError, Tensor
from powerinfer_cli.kernels.cpu.arena import Arena, arena_bytes
from powerinfer_cli.kernels.cpu.rows import Bundled, WeightRows, repack_row
from powerinfer_cli.kernels.cpu.vectors import aligned
from powerinfer_cli.kernels.formats import BUNDLE, FORMATS, SLACK, Format, Whole
from powerinfer_cli.kernels.formats.convert import conversion, convert
from powerinfer_cli.kernels.formats.format import CHUNK
from powerinfer_cli.kernels.jit import Kernel, helper, kernel
from powerinfer_cli.kernels.jit.program import Operation, assemble, operands
from powerinfer_cli.kernels.jit.team import OPERATION, Team, take
from powerinfer_cli.kernels.simd import address_of, i32, i64, load16, stack_f32, store16, u8

__all__ = [
    "OnNote",
    "OnProgress",
    "bundles",
    "lie_together",
    "pack",
    "pack_side_by_side",
    "packed_bytes",
    "packing_kernels",
]

SLICE_BYTES = 1 << 24  # of the file, between two calls of the progress function
SLICE_NUMBERS = 1 << 20  # converted at once
ROWS_AT_ONCE = 8  # a thread's piece of work

Bytes = npt.NDArray[np.uint8]
OnNote = Callable[[str], None]
OnProgress = Callable[[int, int], None]
OP = operands("source source_stride target target_stride n_rows n_cols repack places")
BUNDLES = operands("source source_stride target chunk_bytes n_rows n_blocks block_bytes repack")


@kernel(OPERATION)
def repack_rows(address, worker):
    op = i64(address)
    source, source_stride, target, target_stride = (
        op[OP.source],
        op[OP.source_stride],
        op[OP.target],
        op[OP.target_stride],
    )
    n_rows, n_cols, repack, places = op[OP.n_rows], op[OP.n_cols], op[OP.repack], op[OP.places]
    while True:
        begin = take(op) * ROWS_AT_ONCE
        if begin >= n_rows:
            return
        for i in range(begin, min(begin + ROWS_AT_ONCE, n_rows)):
            to = np.int64(i32(places)[i]) if places else i
            repack_row(repack, source + i * source_stride, target + to * target_stride, n_cols)


@helper
def _copy_block(block, blocks, j, n_bytes, present):
    """A GGUF block as the j-th of a chunk, zeros where it is not there; nothing behind it is read."""
    to = u8(blocks + j * n_bytes)
    if not present:
        for i in range(n_bytes):
            to[i] = 0
        return
    whole = n_bytes // 16 * 16
    for i in range(0, whole, 16):
        store16(to, i, load16(u8(block), i))
    for i in range(whole, n_bytes):
        to[i] = u8(block)[i]


@kernel(OPERATION)
def repack_bundles(address, worker):
    """A piece is a bundle. Its chunks are those of as many GGUF blocks, one of each row."""
    op = i64(address)
    source, source_stride, n_rows = op[BUNDLES.source], op[BUNDLES.source_stride], op[BUNDLES.n_rows]
    n_blocks, block_bytes = op[BUNDLES.n_blocks], op[BUNDLES.block_bytes]
    chunk_bytes, blocks = op[BUNDLES.chunk_bytes], address_of(stack_f32(1024))
    while True:
        bundle = take(op)
        first = bundle * BUNDLE
        if first >= n_rows:
            return
        for g in range(n_blocks):
            for j in range(BUNDLE):
                _copy_block(
                    source + (first + j) * source_stride + g * block_bytes, blocks, j, block_bytes, first + j < n_rows
                )
            repack_row(op[BUNDLES.repack], blocks, op[BUNDLES.target] + (bundle * n_blocks + g) * chunk_bytes, CHUNK)


def bundles(kind: GGMLType, purpose: Bundled = Bundled.WHOLE, *, repack: bool = True) -> bool:
    """Whether rows of this type, or of what it is converted to, may be bundled for this."""
    try:
        found = _format_of(kind)
    except GGUFError:  # it stores no weights
        return False
    return repack and (found.whole if purpose is Bundled.WHOLE else found.dot_bundle) is not None


def _format_of(kind: GGMLType) -> Format:
    return FORMATS.get(kind) or FORMATS[conversion(kind)]


def packing_kernels(
    kinds: Iterable[GGMLType],
    *,
    few: bool = False,
    asked: Iterable[GGMLType] = (),
    whole: Iterable[GGMLType] = (),
) -> Iterator[Kernel]:
    """Those that tensors of these types are packed with, and those that read their rows; few: for a few tokens, too;
    asked, whole: types of rows in bundles, of which there may be no others.
    """
    yield repack_rows
    found = [one for one in (_format_of(kind).dot_bundle for kind in asked) if one is not None]
    found += [one for whole_ in (_format_of(kind).whole for kind in whole) if whole_ for one in whole_.kernels]
    if found:
        yield from (repack_bundles, *found)
    for kind in kinds:
        format_ = _format_of(kind)
        of_rows = (
            format_.repack,
            format_.dot,
            format_.axpy,
            format_.axpy4,
            format_.unpack,
            *((format_.dot_few, format_.dot_some) if few else ()),
        )
        yield from (one for one in of_rows if one is not None)


def packed_bytes(tensor: Tensor, *, repack: bool = True, bundled: bool = False) -> int:
    """How much of an arena a tensor takes; 0 if its rows stay in the file. Raises GGUFError: it stores no weights."""
    format_ = _packed_format(tensor, repack)
    if format_ is None:
        return 0
    if bundled:
        return arena_bytes(_bundle_bytes(tensor, format_) + SLACK)
    return arena_bytes(tensor.n_rows * format_.row_bytes(tensor.shape[-1]) + SLACK)


def _bundle_bytes(tensor: Tensor, format_: Format) -> int:
    return -(-tensor.n_rows // BUNDLE) * _whole(format_).bundle_bytes(tensor.shape[-1])


def _whole(format_: Format) -> Whole:
    assert format_.whole is not None  # a format of blocks
    return format_.whole


def pack(
    tensor: Tensor,
    team: Team,
    *,
    arena: Arena | None = None,
    repack: bool = True,
    bundled: Bundled | None = None,
    on_note: OnNote | None = None,
    on_progress: OnProgress | None = None,
) -> WeightRows:
    """The tensor's rows, all leading dimensions as one. `on_progress(bytes done, all bytes)` counts the file's bytes.
    bundled: in bundles for this, which its type has (`bundles`).

    Without `repack` they stay in the mapped file and each row is rearranged when it is used, in the team's scratch.
    Types that have no kernels are converted in any case, and a line for the user goes to `on_note`. `arena`: has
    `packed_bytes` left for them; None: they get memory of their own. Raises MemoryError.
    """
    format_ = _packed_format(tensor, repack)
    if format_ is None:
        rows = _as_in_file(tensor.kept(), FORMATS[tensor.type], team)
        if on_progress:
            on_progress(tensor.nbytes, tensor.nbytes)
        return rows
    arena = arena or Arena(packed_bytes(tensor, repack=repack, bundled=bundled is not None))
    n_rows, n_cols, stride = tensor.n_rows, tensor.shape[-1], format_.row_bytes(tensor.shape[-1])
    size = n_rows * stride
    if bundled is not None:
        stride, size = _whole(format_).bundle_bytes(n_cols) // BUNDLE, _bundle_bytes(tensor, format_)
    target = WeightRows(format_, n_rows, n_cols, arena.take(size + SLACK), stride, bundled=bundled)
    _fill(target, tensor, team, on_note, on_progress)
    return target


def lie_together(tensors: Iterable[Tensor], *, repack: bool = True) -> bool:
    """Whether `pack_side_by_side` has a place for each of their rows: all are packed, none stay in the file."""
    return all(_packed_format(tensor, repack) is not None for tensor in tensors)


def pack_side_by_side(
    tensors: Sequence[Tensor],
    team: Team,
    *,
    places: npt.NDArray[np.int32] | None = None,
    arena: Arena | None = None,
    repack: bool = True,
    on_note: OnNote | None = None,
    on_progress: OnProgress | None = None,
) -> list[WeightRows]:
    """As `pack`, for matrices of equally many rows: first row 0 of each, one behind the other, then row 1 of each...

    places [n_rows]: where each row of the tensors goes instead. Where the rows of one stay in the file, so that nothing
    can be beside them, each matrix is packed for itself.

    Raises ValueError: places, where rows do not `lie_together`.
    """
    total, done = sum(tensor.nbytes for tensor in tensors), 0

    def progress(part: int, _: int) -> None:
        if on_progress:
            on_progress(done + part, total)

    formats = [_packed_format(tensor, repack) for tensor in tensors]
    sizes = [f.row_bytes(tensor.shape[-1]) for f, tensor in zip(formats, tensors, strict=True) if f]
    memory, stride, place, packed = np.empty(0, np.uint8), sum(sizes), 0, []
    together = lie_together(tensors, repack=repack)
    if places is not None and not together:
        raise ValueError("rows that stay in the file have no other places")
    if together:
        n_rows = tensors[0].n_rows
        arena = arena or Arena(arena_bytes(n_rows * stride + SLACK))
        memory = arena.take(n_rows * stride + SLACK)
    for format_, tensor in zip(formats, tensors, strict=True):
        if format_ is None or not together:
            packed.append(pack(tensor, team, arena=arena, repack=repack, on_note=on_note, on_progress=progress))
        else:
            packed.append(WeightRows(format_, n_rows, tensor.shape[-1], memory[place:], stride))
            _fill(packed[-1], tensor, team, on_note, progress, places)
            place += format_.row_bytes(tensor.shape[-1])
        done += tensor.nbytes
    return packed


def _packed_format(tensor: Tensor, repack: bool) -> Format | None:
    """What a tensor's rows become in memory; None: they stay in the file. Raises GGUFError: it stores no weights."""
    format_ = FORMATS.get(tensor.type)
    if format_ is not None:
        return format_ if format_.repack is not None and repack else None
    try:
        return FORMATS[conversion(tensor.type)]
    except GGUFError as error:
        raise GGUFError(f"the tensor {tensor.name!r}: {error}") from error


def _as_in_file(tensor: Tensor, format_: Format, team: Team) -> WeightRows:
    source = tensor.rows()
    scratch = None
    if format_.repack is not None:
        stride = -(-(format_.row_bytes(tensor.shape[-1]) + SLACK) // 64) * 64  # no cache line belongs to two threads
        scratch = aligned(team.size * stride).reshape(team.size, stride)
    return WeightRows(format_, len(source), tensor.shape[-1], tensor.data, tensor.row_bytes, scratch)


def _fill(
    target: WeightRows,
    tensor: Tensor,
    team: Team,
    on_note: OnNote | None,
    on_progress: OnProgress | None,
    places: npt.NDArray[np.int32] | None = None,
) -> None:
    """Put all rows into their places, slice by slice, converted where the target's format is not the tensor's."""
    tensor = tensor.kept()
    source, converted = tensor.rows(), tensor.type != target.format.type
    if converted and on_note:
        on_note(f"{tensor.type.name} converted to {target.format.type.name}")
    step = SLICE_NUMBERS // max(1, target.n_cols) if converted else SLICE_BYTES // max(1, tensor.row_bytes)
    whole = BUNDLE if target.bundled is not None else 1
    step = max(whole, step // whole * whole)
    for begin in range(0, len(source), step):
        part = source[begin : begin + step]
        rows = convert(part, tensor.type) if converted else part
        _put(target, begin, rows, team, None if places is None else places[begin : begin + step])
        _done(tensor, begin, begin + len(part), on_progress)
    if on_progress:
        on_progress(tensor.nbytes, tensor.nbytes)


def _put(target: WeightRows, row: int, part: Bytes, team: Team, places: npt.NDArray[np.int32] | None) -> None:
    """GGUF rows of the target's type, from this row of the target on, or to their places."""
    place = target.data[row * target.stride :] if places is None else target.data
    if target.format.repack is None:
        shape = target.n_rows if places is not None else len(part), part.shape[1]
        rows = np.lib.stride_tricks.as_strided(place, shape, (target.stride, 1))
        rows[slice(None) if places is None else places] = part
        return
    if target.bundled is not None:
        team.run(assemble([_bundling(target, place, part)]).table)
        return
    operation = Operation.of(
        repack_rows,
        OP,
        source=part,
        source_stride=part.shape[1],
        target=place,
        target_stride=target.stride,
        n_rows=len(part),
        n_cols=target.n_cols,
        repack=target.format.repack.address,
        places=places,
    )
    team.run(assemble([operation]).table)


def _bundling(target: WeightRows, place: Bytes, part: Bytes) -> Operation:
    whole = _whole(target.format)
    return Operation.of(
        repack_bundles,
        BUNDLES,
        source=part,
        source_stride=part.strides[0],
        target=place,
        chunk_bytes=whole.chunk_bytes,
        n_rows=len(part),
        n_blocks=target.n_cols // whole.columns,
        block_bytes=BLOCK[target.format.type][1],
        repack=whole.repack.address,
    )


def _done(tensor: Tensor, begin: int, end: int, on_progress: OnProgress | None) -> None:
    tensor.drop_pages(begin * tensor.row_bytes, end * tensor.row_bytes)
    if on_progress:
        on_progress(end * tensor.row_bytes, tensor.nbytes)
