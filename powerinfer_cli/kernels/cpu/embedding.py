"""The first vectors of a batch: rows of the embedding matrix, and learned positions where a model has them."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.rows import (
    COLUMNS,
    GROUP,
    HAS_MIN,
    UNPACK_BUNDLE,
    UNPACK_ROW,
    WeightRows,
    row_address,
    row_in_memory,
    unpack_bundle,
    unpack_row,
)
from powerinfer_cli.kernels.cpu.segments import PAST, START, segment_of
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors
from powerinfer_cli.kernels.formats.format import BUNDLE
from powerinfer_cli.kernels.formats.panels import ROWS
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import (
    address_of,
    f32,
    first,
    float_of,
    fma,
    i8,
    i32,
    i64,
    load_f32,
    load_i8,
    splat,
    stack_f32,
    store_f32,
    zero,
)

__all__ = ["embed"]

_CHUNK = 512  # numbers unpacked at a time
OP = operands("state rows ids floats stride positions offset scale shift")


def embed(
    state: npt.NDArray[np.int64],
    rows: WeightRows,
    ids: npt.NDArray[np.int32],
    out: Vectors,
    positions: WeightRows | None = None,
    offset: int = 0,
    scale: float = 1.0,
    shift: npt.NDArray[np.float32] | None = None,
) -> Operation:
    """out.floats[t] = scale * rows[ids[t]], + positions[p + offset] for a token at position p of its sequence, where
    there are learned positions, + shift [n], where there is one.
    """
    return Operation.of(
        _embed,
        OP,
        state=state,
        rows=rows,
        ids=ids,
        floats=out.floats,
        stride=out.stride,
        positions=positions,
        offset=offset,
        scale=float(scale),
        shift=shift,
    )


@helper
def _unpack_lane(rows, i, begin, end, quants, scales, mins, room):
    """As UNPACK_ROW of a row in a bundle; the others are unpacked beside it, 32 columns at a time, in `room`."""
    lane, bundle, scales_room, mins_room = (
        i % BUNDLE,
        row_in_memory(rows, i // BUNDLE * BUNDLE),
        room + 1024,
        room + 1024 + 8 * ROWS,
    )
    groups = 32 // rows[GROUP]
    for g in range((end - begin) // 32):
        at = begin + g * 32
        unpack_bundle(rows[UNPACK_BUNDLE], bundle, at, at + 32, 0, room, scales_room, mins_room)
        for k in range(8):
            i32(quants)[g * 8 + k] = i32(room)[k * ROWS + lane]
        for k in range(groups):
            scales[g * groups + k], mins[g * groups + k] = (
                f32(scales_room)[k * ROWS + lane],
                f32(mins_room)[k * ROWS + lane],
            )


@helper
def _fetch(rows, i, scale, worker, out, stride, room, adding):
    """Row i, scaled, into float32 [stride], or added to what is there; zeros behind the row's end."""
    n, group, row = rows[COLUMNS], rows[GROUP], np.int64(0) if rows[UNPACK_BUNDLE] else row_address(rows, i, worker)
    scales_room, mins_room = room + _CHUNK * 4, room + _CHUNK * 5
    numbers, quants, scales, mins = f32(room), i8(room), f32(scales_room), f32(mins_room)
    for begin in range(0, stride, _CHUNK):
        end = min(begin + _CHUNK, n)
        if begin < n and rows[UNPACK_BUNDLE]:
            _unpack_lane(rows, np.int64(i), begin, end, room, scales, mins, room + _CHUNK * 6)
        elif begin < n:
            unpack_row(rows[UNPACK_ROW], row, n, begin, end, room, scales_room, mins_room)
        for c in range(0, _CHUNK, 16):
            value = load_f32(numbers, c)
            if group:
                least = splat(mins[c // group]) if rows[HAS_MIN] else zero()
                value = fma(load_i8(quants, c), splat(scales[c // group]), least)
            value = first(value, n - begin - c) * splat(scale)
            store_f32(out, begin + c, value + load_f32(out, begin + c) if adding else value)


@kernel(OPERATION, "embed")
def _embed(op_address, worker):
    op = i64(op_address)
    state, rows, ids, floats = i64(op[OP.state]), i64(op[OP.rows]), i32(op[OP.ids]), op[OP.floats]
    stride, positions, offset = op[OP.stride], op[OP.positions], op[OP.offset]
    scale, room = float_of(op[OP.scale]), address_of(stack_f32(2048))
    while True:
        t = take(op)
        if t >= state[N_TOKENS]:
            return
        out = f32(floats + t * stride * 4)
        _fetch(rows, ids[t], scale, worker, out, stride, room, False)
        if positions:
            segment = segment_of(state, t)
            position = segment[PAST] + t - segment[START]
            _fetch(i64(positions), position + offset, np.float32(1.0), worker, out, stride, room, True)
        if op[OP.shift]:
            for i in range(rows[COLUMNS]):
                out[i] = out[i] + f32(op[OP.shift])[i]
