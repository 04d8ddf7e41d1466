"""Attention over the KV cache, for one token as for many: causal, or of all tokens of a text to all.

A thread takes a kv head and a tile of rows; a row is one token's query for one of the heads that share the kv head.
It goes through the positions 128 at a time: scores, then the softmax so far (a running maximum and sum, by which what
was summed before is scaled down when the maximum grows), then the sum of values. A row's result does not depend on
the rows beside it, so neither tiles nor batches nor threads change a bit of it.
"""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import KeysValues
from powerinfer_cli.kernels.cpu.attention.products import MOST_ROWS, SPAN, attention_kernels, multiply_part
from powerinfer_cli.kernels.cpu.functions import exp, tanh
from powerinfer_cli.kernels.cpu.segments import COUNT, N_SEGMENTS, PAST, START, cell_of, segment_at
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors, aligned
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import Operation, operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import (
    f32,
    first,
    first_or,
    float_of,
    i64,
    largest,
    load_f32,
    maximum,
    splat,
    store_f32,
    total,
    zero,
)
from powerinfer_cli.model.blocks import alibi_exponents

__all__ = ["attention"]

_LOWEST = np.float32(-1e30)
_EVERYTHING = 1 << 40  # positions
OP = operands(
    "state q q_bytes out out_stride group n_head_kv head_dim n_ctx k k_scales v v_scales scale threads room room_bytes "
    "scores sums window softcap slopes temperatures sinks chunk origin parts ahead"
)


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
    causal: bool = True,
    reach: int | None = None,
) -> Operation:
    """out.floats[t] = softmax(scale * q[t] . keys) values, head by head, over a token's own position and those before
    it in its sequence, `window` of them or all. With a softcap c scores are c tanh(score / c), with alibi they then
    fall by a head's slope times the distance. temperatures [T]: what a token's queries are multiplied by.
    sinks [n_head]: scores that are in the softmax, and have no values. chunk: no position is seen before the
    last multiple of it. Positions whose cells are not here are passed over. causal False: a segment's tokens see all of
    it, or with a reach so many to each side.

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
        window=window or (_EVERYTHING if reach is None else reach + 1),
        softcap=softcap or 0.0,
        slopes=slopes,
        temperatures=temperatures,
        sinks=sinks,
        chunk=chunk or 0,
        origin=cache.origin,
        parts=parts,
        ahead=0 if causal else _EVERYTHING if reach is None else reach,
    )


def _room(dims: int) -> int:
    """float32 that a thread needs: queries, and what `_places` tells."""
    return -(-MOST_ROWS * (2 * dims + SPAN + 2) // 16) * 16


@helper
def _places(room, dims):
    """Where in a thread's room, behind the queries, are: sums of values, scores, maxima, sums of exponentials."""
    sums = room + MOST_ROWS * dims * 4
    scores = sums + MOST_ROWS * dims * 4
    highest = scores + MOST_ROWS * SPAN * 4
    return sums, scores, highest, highest + MOST_ROWS * 4


@helper
def _cap(scores, count, softcap):
    """Scores, bent towards a bound."""
    for i in range(0, count, 16):
        bent = tanh(load_f32(scores, i) * splat(np.float32(1.0) / softcap))
        store_f32(scores, i, bent * splat(softcap))


@helper
def _lean(scores, count, own, slope):
    """Scores, less by distance from the own position."""
    for i in range(count):
        scores[i] = scores[i] - slope * np.float32(abs(own - i))


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
    ahead, length = op[OP.ahead], n_past + segment[COUNT]
    limit = min(n_past + (end - 1) // group + 1 + ahead, length)
    window, chunk, softcap, slopes = op[OP.window], op[OP.chunk], float_of(op[OP.softcap]), op[OP.slopes]
    lowest = _first_seen(n_past + begin // group, window, chunk)
    for start in range(lowest // SPAN * SPAN, limit, SPAN):
        count, unseen = min(SPAN, limit - start), max(0, lowest - start)
        cell = cell_of(segment, start) - op[OP.origin]
        if cell < 0:
            continue
        position = head * op[OP.n_ctx] + cell
        multiply_part(op[OP.scores], room, rows, head_dim, op[OP.k], op[OP.k_scales], position, count, scores)
        for r in range(end - begin):
            row_scores, row_sums = f32(scores + r * SPAN * 4), f32(sums + r * dims * 4)
            own = n_past + (begin + r) // group
            seen, hidden = min(own + 1 + ahead, length) - start, _first_seen(own, window, chunk) - start
            if hidden >= count:
                _forget(row_scores, count)
                continue
            if softcap > np.float32(0.0):
                _cap(row_scores, count, softcap)
            if slopes:
                _lean(row_scores, count, own - start, f32(slopes)[head * group + (begin + r) % group])
            _hide(row_scores, hidden)
            _soften(row_scores, count, seen, row_sums, dims, f32(highest + r * 4), f32(totals + r * 4))
            _forget(row_scores, hidden)
        # What lies behind the window may be no numbers, and 0 * NaN is NaN.
        weights, value, left = scores + unseen * 4, position + unseen, count - unseen
        multiply_part(op[OP.sums], weights, rows, dims, op[OP.v], op[OP.v_scales], value, left, sums)


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
    size = MOST_ROWS
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
        rows = 1 if end - begin == 1 else 4 if end - begin <= 4 else MOST_ROWS
        _gather(op, segment, room, begin, end, head, rows)
        _tile(op, segment, room, begin, end, head, rows)
        _finish(op, segment, room, begin, end, head)
