"""Causal attention over the KV cache, for one token as for many.

A thread takes a kv head and a tile of rows; a row is one token's query for one of the heads that share the kv head.
It goes through the positions 128 at a time: scores, then the softmax so far (a running maximum and sum, by which what
was summed before is scaled down when the maximum grows), then the sum of values. A row's result does not depend on
the rows beside it, so neither tiles nor batches nor threads change a bit of it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import PAGE, CacheType, KeysValues
from powerinfer_cli.kernels.cpu.functions import exp, tanh
from powerinfer_cli.kernels.cpu.segments import COUNT, N_SEGMENTS, PAST, START, cell_of, segment_at
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors, aligned
from powerinfer_cli.kernels.jit import RUNG, Kernel, Rung, family, helper, kernel, types
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import (
    add_scaled,
    calling,
    columns_f16,
    columns_f32,
    columns_i8,
    f32,
    first,
    first_or,
    float_of,
    i8,
    i64,
    largest,
    load_f32,
    load_tile,
    maximum,
    outer,
    scaled_by_pairs,
    splat,
    store_f32,
    store_tile,
    total,
    u16,
    zero,
    zero_tile,
)
from powerinfer_cli.model.blocks import alibi_exponents

__all__ = ["attention", "attention_kernels"]

_SPAN = PAGE  # positions at a time
_LOWEST = np.float32(-1e30)
_EVERYTHING = 1 << 40  # positions
# Rows of a tile -> columns in registers: blocks of 16 positions for scores, of 16 dimensions for sums of values.
# AVX-512 has 32 registers; below, a vector of 16 takes two of 16, or more.
_TILES = {1: (4, 4), 4: (2, 4), 8: (1, 2)} if RUNG is Rung.VNNI else {1: (4, 4), 4: (1, 1)}
_MOST_ROWS = max(_TILES)
OP = operands(
    "state q q_bytes out out_stride group n_head_kv head_dim n_ctx k k_scales v v_scales scale threads room room_bytes "
    "scores sums window softcap slopes temperatures sinks chunk origin parts"
)
# What depends on the type of keys, or of values, is a kernel of its own, called by address: one for each type rather
# than one for each pair. (queries or softmax, rows of the tile, dimensions, keys or values, their scales, position, how
# many positions, out)
_PART = types.void(*[types.int64] * 8)
_part = calling(types.void, *[types.int64] * 8)
_POINTER = {CacheType.F32: f32, CacheType.F16: u16, CacheType.Q8_0: i8}
_COLUMNS = {CacheType.F32: columns_f32, CacheType.F16: columns_f16, CacheType.Q8_0: columns_i8}


def attention(
    state: npt.NDArray[np.int64],
    q: npt.NDArray[np.float32],
    cache: KeysValues,
    out: Vectors,
    threads: int,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    alibi: float | None = None,
    temperatures: npt.NDArray[np.float32] | None = None,
    sinks: npt.NDArray[np.float32] | None = None,
    chunk: int | None = None,
    parts: bool = False,
) -> Operation:
    """out.floats[t] = softmax(scale * q[t] . keys) values, head by head, over a token's own position and those before
    it in its sequence, `window` of them or all. With a softcap c scores are c tanh(score / c), with alibi they then
    fall by a head's slope times the distance. temperatures [T]: what a token's queries are multiplied by.
    sinks [n_head]: scores that are in the softmax, and have no values. chunk: no position is seen before the
    last multiple of it. Positions whose cells are not here are passed over.

    q float32 [T, at least n_head * head_dim], out.n = n_head * head_dim; `threads`: how many may carry it out at most.
    parts: of each head head_dim + 2 numbers: the sum of exp(score - highest) * value, the highest score, or -1e30
    where nothing was seen, and the sum of these exponentials.
    """
    shape = cache.shape
    room = aligned(threads * _room(shape.value_stride) * 4).view(np.float32).reshape(threads, -1)
    scores, sums = attention_kernels(cache.type_k, cache.type_v)
    slopes = None if alibi is None else np.exp2(-alibi * alibi_exponents(shape.n_head)).astype(np.float32)
    return Operation.of(
        _attend,
        OP,
        state=state,
        q=q,
        q_bytes=q.strides[0],
        out=out.floats,
        out_stride=out.stride,
        group=shape.n_head // shape.n_head_kv,
        n_head_kv=shape.n_head_kv,
        head_dim=shape.head_dim,
        n_ctx=shape.n_ctx,
        k=cache.k,
        k_scales=cache.k_scales,
        v=cache.v,
        v_scales=cache.v_scales,
        scale=float(scale),
        threads=threads,
        room=room,
        room_bytes=room.strides[0],
        scores=scores.address,
        sums=sums.address,
        window=window or _EVERYTHING,
        softcap=softcap or 0.0,
        slopes=slopes,
        temperatures=temperatures,
        sinks=sinks,
        chunk=chunk or 0,
        origin=cache.origin,
        parts=parts,
    )


def attention_kernels(type_k: CacheType, type_v: CacheType) -> tuple[Kernel, Kernel]:
    """What the operation calls: one for scores, one for sums of values."""
    return _scores(type_k), _sums(type_v)


def _room(dims: int) -> int:
    """float32 that a thread needs: queries, and what `_places` tells."""
    return -(-_MOST_ROWS * (2 * dims + _SPAN + 2) // 16) * 16


@helper
def _places(room, dims):
    """Where in a thread's room, behind the queries, are: sums of values, scores, maxima, sums of exponentials."""
    sums = room + _MOST_ROWS * dims * 4
    scores = sums + _MOST_ROWS * dims * 4
    highest = scores + _MOST_ROWS * _SPAN * 4
    return sums, scores, highest, highest + _MOST_ROWS * 4


def _scores_of(rows: int, kind: CacheType) -> Any:
    columns = _TILES[rows][0]
    pointer, load, grouped = _POINTER[kind], _COLUMNS[kind], kind is CacheType.Q8_0
    n, positions = rows * columns, 16 * columns

    @helper
    def scores(q, head_dim, keys_address, scales, position, count, out):
        """out[r, i] = q[:, r] . key of `position` + i, i below count, rounded up; q [head_dim, rows]."""
        keys, step, groups = pointer(keys_address), head_dim * 16, head_dim // 32
        for i in range(0, count, positions):
            block = (position + i) // 16
            at = block * step
            tile = zero_tile(n)
            if grouped:
                for g in range(groups):
                    part = zero_tile(n)
                    for d in range(g * 32, g * 32 + 32):
                        part = outer(part, load(columns, keys, at + d * 16, step), q, d * rows, 1)
                    factors = columns_f16(columns, u16(scales), (block * groups + g) * 16, groups * 16)
                    tile = add_scaled(tile, part, factors)
            else:
                for d in range(head_dim):
                    tile = outer(tile, load(columns, keys, at + d * 16, step), q, d * rows, 1)
            store_tile(tile, columns, out, i, _SPAN)

    return scores


def _sums_of(rows: int, kind: CacheType) -> Any:
    most = _TILES[rows][1]
    add_most, add_one, width = _sums_of_columns(rows, most, kind), _sums_of_columns(rows, 1, kind), 16 * most

    @helper
    def sums(p, dims, values, scales, position, count, out):
        """out[r] += sum of p[r, i] * value of `position` + i, i below count; out [rows, dims]."""
        whole = dims // width * width
        for d in range(0, whole, width):
            add_most(p, dims, values, scales, position, count, d, out)
        for d in range(whole, dims, 16):
            add_one(p, dims, values, scales, position, count, d, out)

    return sums


def _sums_of_columns(rows: int, columns: int, kind: CacheType) -> Any:
    pointer, load, grouped = _POINTER[kind], _COLUMNS[kind], kind is CacheType.Q8_0

    @helper
    def sums(p, dims, values_address, scales, position, count, d, out):
        """The same for dimensions d to d + 16 * columns - 1."""
        values = pointer(values_address)
        tile = load_tile(rows, columns, out, d, dims)
        for i in range(count):
            row = position + i
            vectors = load(columns, values, row * dims + d, 16)
            if grouped:
                vectors = scaled_by_pairs(vectors, u16(scales), row * (dims // 32) + d // 32)
            tile = outer(tile, vectors, p, i, _SPAN)
        store_tile(tile, columns, out, d, dims)

    return sums


def _part_kernel(name: str, make: Callable[[int, CacheType], Any], kind: CacheType) -> Kernel:
    """A kernel of all sizes of tiles."""
    of_rows = {rows: make(rows, kind) for rows in _TILES}
    one, few, many = of_rows[1], of_rows[4], of_rows[_MOST_ROWS]

    def part(numbers, rows, dims, data, scales, position, count, out):
        if rows == 1:
            one(f32(numbers), dims, data, scales, position, count, f32(out))
        elif rows == 4:
            few(f32(numbers), dims, data, scales, position, count, f32(out))
        else:
            many(f32(numbers), dims, data, scales, position, count, f32(out))

    return kernel(_PART, f"attention_{name}_{kind}")(part)


@family(CacheType)
def _scores(type_k: CacheType) -> Kernel:
    return _part_kernel("scores", _scores_of, type_k)


@family(CacheType)
def _sums(type_v: CacheType) -> Kernel:
    return _part_kernel("sums", _sums_of, type_v)


@helper
def _cap(scores, count, softcap):
    """Scores, bent towards a bound."""
    for i in range(0, count, 16):
        bent = tanh(load_f32(scores, i) * splat(np.float32(1.0) / softcap))
        store_f32(scores, i, bent * splat(softcap))


@helper
def _lean(scores, count, seen, slope):
    """Scores, less by distance from the last position that is seen."""
    for i in range(count):
        scores[i] = scores[i] - slope * np.float32(seen - 1 - i)


@helper
def _hide(scores, hidden):
    """The first scores are of positions behind the window."""
    for i in range(0, hidden, 16):
        store_f32(scores, i, first_or(splat(_LOWEST), hidden - i, load_f32(scores, i)))


@helper
def _forget(scores, count):
    """The first positions weigh nothing: 0 instead of e**-87, which would still break ties in rounding, so that a row's
    result would depend on where its tile begins.
    """
    for i in range(0, count, 16):
        store_f32(scores, i, first_or(zero(), count - i, load_f32(scores, i)))


@helper
def _soften(scores, count, seen, sums, dims, highest, total_so_far):
    """Scores to exponentials, 0 from `seen` on, and what was summed so far to the new scale."""
    peak = splat(_LOWEST)
    for i in range(0, count, 16):
        peak = maximum(peak, first_or(load_f32(scores, i), seen - i, splat(_LOWEST)))
    before = highest[0]
    now = max(before, largest(peak))
    total_now = zero()
    for i in range(0, count, 16):
        p = first(exp(load_f32(scores, i) - splat(now)), seen - i)
        store_f32(scores, i, p)
        total_now = total_now + p
    highest[0] = now
    if now == before:
        total_so_far[0] += total(total_now)
        return
    shrink = largest(exp(splat(before - now)))
    total_so_far[0] = total_so_far[0] * shrink + total(total_now)
    for d in range(0, dims, 16):
        store_f32(sums, d, load_f32(sums, d) * splat(shrink))


@helper
def _first_seen(own, window, chunk):
    """The first position that the one at `own` sees."""
    return own // chunk * chunk if chunk else max(0, own + 1 - window)


@helper
def _tile(op, segment, room, begin, end, head, rows):
    """All positions for a tile that has room for so many rows, of which the first end - begin count."""
    group, head_dim, n_past = op[OP.group], op[OP.head_dim], segment[PAST]
    dims = (head_dim + 15) // 16 * 16
    sums, scores, highest, totals = _places(room, dims)
    limit = n_past + (end - 1) // group + 1
    window, chunk, softcap, slopes = op[OP.window], op[OP.chunk], float_of(op[OP.softcap]), op[OP.slopes]
    lowest = _first_seen(n_past + begin // group, window, chunk)
    for start in range(lowest // _SPAN * _SPAN, limit, _SPAN):
        count, unseen = min(_SPAN, limit - start), max(0, lowest - start)
        cell = cell_of(segment, start) - op[OP.origin]
        if cell < 0:
            continue
        position = head * op[OP.n_ctx] + cell
        _part(op[OP.scores], room, rows, head_dim, op[OP.k], op[OP.k_scales], position, count, scores)
        for r in range(end - begin):
            row_scores, row_sums = f32(scores + r * _SPAN * 4), f32(sums + r * dims * 4)
            seen = n_past + (begin + r) // group + 1 - start
            hidden = _first_seen(start + seen - 1, window, chunk) - start
            if hidden >= count:
                _forget(row_scores, count)
                continue
            if softcap > np.float32(0.0):
                _cap(row_scores, count, softcap)
            if slopes:
                _lean(row_scores, count, seen, f32(slopes)[head * group + (begin + r) % group])
            _hide(row_scores, hidden)
            _soften(row_scores, count, seen, row_sums, dims, f32(highest + r * 4), f32(totals + r * 4))
            _forget(row_scores, hidden)
        # What lies behind the window may be no numbers, and 0 * NaN is NaN.
        weights, value, left = scores + unseen * 4, position + unseen, count - unseen
        _part(op[OP.sums], weights, rows, dims, op[OP.v], op[OP.v_scales], value, left, sums)


@helper
def _gather(op, segment, room, begin, end, head, rows):
    """A tile's queries, scaled, as [head_dim, rows], spare rows repeating the last; sums and maxima at their start,
    which a sink has made.
    """
    group, head_dim, sinks = op[OP.group], op[OP.head_dim], op[OP.sinks]
    dims, scale = (head_dim + 15) // 16 * 16, float_of(op[OP.scale])
    sums, _, highest, totals = _places(room, dims)
    for r in range(rows):
        row = min(begin + r, end - 1)
        token = segment[START] + row // group
        x = f32(op[OP.q] + token * op[OP.q_bytes] + (head * group + row % group) * head_dim * 4)
        factor = scale * f32(op[OP.temperatures])[token] if op[OP.temperatures] else scale
        for d in range(head_dim):
            f32(room)[d * rows + r] = x[d] * factor
        for d in range(0, dims, 16):
            store_f32(f32(sums), r * dims + d, zero())
        f32(highest)[r], f32(totals)[r] = _LOWEST, np.float32(0.0)
        if sinks:
            f32(highest)[r], f32(totals)[r] = f32(sinks)[head * group + row % group], np.float32(1.0)


@helper
def _finish(op, segment, room, begin, end, head):
    """A tile's sums of values over its sums of exponentials, and zeros behind a token's last head; or both."""
    group, head_dim, parts = op[OP.group], op[OP.head_dim], op[OP.parts]
    dims = (head_dim + 15) // 16 * 16
    sums, _, highest, totals = _places(room, dims)
    for row in range(begin, end):
        r, token = row - begin, segment[START] + row // group
        out = f32(op[OP.out] + token * op[OP.out_stride] * 4)
        if parts:
            at = (head * group + row % group) * (head_dim + 2)
            for d in range(head_dim):
                out[at + d] = f32(sums)[r * dims + d]
            out[at + head_dim], out[at + head_dim + 1] = f32(highest)[r], f32(totals)[r]
            continue
        at, inverse = (head * group + row % group) * head_dim, np.float32(1.0) / f32(totals)[r]
        for d in range(head_dim):
            out[at + d] = f32(sums)[r * dims + d] * inverse
        if head == op[OP.n_head_kv] - 1 and row % group == group - 1:
            for d in range(at + head_dim, op[OP.out_stride]):
                out[d] = np.float32(0.0)


@helper
def _rows_of_a_tile(n_rows, n_head_kv, threads):
    """As many as registers hold, unless threads would find nothing to do."""
    size = _MOST_ROWS
    while size > 1 and (n_rows + size - 1) // size * n_head_kv < 2 * threads:
        size //= 2
    return size


@kernel(OPERATION, "attention")
def _attend(op_address, worker):
    op = i64(op_address)
    state, group, n_head_kv = i64(op[OP.state]), op[OP.group], op[OP.n_head_kv]
    room = op[OP.room] + worker * op[OP.room_bytes]
    size = _rows_of_a_tile(state[N_TOKENS] * group, n_head_kv, op[OP.threads])
    while True:
        piece, i = take(op), 0
        segment = segment_at(state, 0)
        tiles = (segment[COUNT] * group + size - 1) // size
        while piece >= tiles * n_head_kv:
            piece, i = piece - tiles * n_head_kv, i + 1
            if i >= state[N_SEGMENTS]:
                return
            segment = segment_at(state, i)
            tiles = (segment[COUNT] * group + size - 1) // size
        head, begin = piece // tiles, (tiles - 1 - piece % tiles) * size  # the longest first
        end = min(begin + size, segment[COUNT] * group)
        rows = 1 if end - begin == 1 else 4 if end - begin <= 4 else _MOST_ROWS
        _gather(op, segment, room, begin, end, head, rows)
        _tile(op, segment, room, begin, end, head, rows)
        _finish(op, segment, room, begin, end, head)
