"""Chosen experts for a few tokens: an expert's rows are read, and unpacked, once for all tokens that have chosen it.

As `token` for each of them, to the bit. Each thread has an expert's tokens in panels of its own and takes some rows at
a time.
"""

import numpy as np

from powerinfer_cli.kernels.cpu.experts.places import DOWN, GATE_UP, place_of
from powerinfer_cli.kernels.cpu.experts.routing import N_USED
from powerinfer_cli.kernels.cpu.rows import (
    BASE,
    COLUMNS,
    DOT_ROW,
    GROUP,
    REPACK_ROW,
    STRIDE,
    dot_few,
    dot_row,
    row_address,
)
from powerinfer_cli.kernels.cpu.shares import AHEAD_BYTES, fetch, share
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS
from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.kernels.formats.format import ROWS_AT_ONCE
from powerinfer_cli.kernels.formats.token_panels import pack_tokens
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import address_of, f32, i32, i64, stack_f32

__all__ = ["down_few", "gate_up_few"]


@helper
def _rows_at_once(rows):
    return 1 if rows[REPACK_ROW] else ROWS_AT_ONCE  # there is room for one rearranged row only


@helper
def _pack(rows, xs, n, panels):
    """What an expert's n tokens, at the addresses xs, have; one alone stays where it is."""
    if n > 1:
        pack_tokens(rows[GROUP], address_of(xs), n, rows[COLUMNS], panels)


@helper
def _multiply(rows, dot, i, count, xs, n, panels, ahead, found, worker):
    """found[r * FEW + k] = row i + r . the k-th of n tokens."""
    row, columns = row_address(rows, i, worker), rows[COLUMNS]
    if n > 1:
        dot_few(dot, row, rows[STRIDE], count, panels, n, columns, ahead, address_of(found))
        return
    for r in range(count):
        behind = r * rows[STRIDE]
        found[r * FEW] = dot_row(rows[DOT_ROW], row + behind, xs[0], columns, ahead + behind)


@kernel(OPERATION, "experts_gate_up_few")
def gate_up_few(op_address, worker):
    """Over the rows of gate and up of all experts in use, one behind the other."""
    op = i64(op_address)
    ff, stride, threads = op[GATE_UP.ff], op[GATE_UP.stride], op[GATE_UP.threads]
    starts, order = i32(op[GATE_UP.starts]), i32(op[GATE_UP.order])
    panels = op[GATE_UP.panels] + worker * op[GATE_UP.panels_bytes]
    xs, found = i64(address_of(stack_f32(32))), stack_f32(128)  # FEW; ROWS_AT_ONCE of as many
    n = i64(op[GATE_UP.counts])[N_USED] * ff * (2 if op[GATE_UP.gate] else 1)
    begin, end = share(take(op), threads, n)
    if begin < n:
        fetch(place_of(op, begin, n)[2], AHEAD_BYTES)
    while begin < n:
        i, is_up, there, left = place_of(op, begin, n)
        last = min(begin + left, end)
        next_begin, next_end = (last, end) if last < end else share(take(op), threads, n)
        next_address = place_of(op, next_begin, n)[2] if next_begin < n else there
        rows = i64(op[GATE_UP.up] if is_up else op[GATE_UP.gate])
        dot = op[GATE_UP.up_dot] if is_up else op[GATE_UP.gate_dot]
        x = op[GATE_UP.up_x] if is_up else op[GATE_UP.gate_x]
        x_bytes = op[GATE_UP.up_x_bytes] if is_up else op[GATE_UP.gate_x_bytes]
        bias = op[GATE_UP.up_bias] if is_up else op[GATE_UP.gate_bias]
        out = f32(op[GATE_UP.ups] if is_up else op[GATE_UP.gates])
        first, n_pairs = np.int64(starts[i // ff]), np.int64(starts[i // ff + 1] - starts[i // ff])
        for k in range(n_pairs):
            xs[k] = x + np.int64(order[first + k]) // op[GATE_UP.n_chosen] * x_bytes
        _pack(rows, xs, n_pairs, panels)
        at_once = _rows_at_once(rows)
        for v in range(begin, last, at_once):
            row, count = i + v - begin, min(at_once, last - v)
            ahead = next_address if v + count == last else there + (v + count - begin) * rows[STRIDE]
            _multiply(rows, dot, row, count, xs, n_pairs, panels, ahead, found, worker)
            for k in range(n_pairs):
                for r in range(count):
                    value = found[r * FEW + k]
                    out[(first + k) * stride + (row + r) % ff] = value + f32(bias)[row + r] if bias else value
        begin, end = next_begin, next_end


@kernel(OPERATION, "experts_down_few")
def down_few(op_address, worker):
    """A share is some rows of every expert's, a run of each."""
    op = i64(op_address)
    rows, x, x_bytes, bias = i64(op[DOWN.rows]), op[DOWN.x], op[DOWN.x_bytes], op[DOWN.bias]
    n_embd, weights, threads = op[DOWN.n_embd], f32(op[DOWN.weights]), op[DOWN.threads]
    starts, order, used = i32(op[DOWN.starts]), i32(op[DOWN.order]), i32(op[DOWN.used])
    out, stride, n_used = f32(op[DOWN.out]), op[DOWN.stride], i64(op[DOWN.counts])[N_USED]
    panels = op[DOWN.panels] + worker * op[DOWN.panels_bytes]
    xs, found = i64(address_of(stack_f32(32))), stack_f32(128)  # FEW; ROWS_AT_ONCE of as many
    base, row_bytes, at_once = rows[BASE], rows[STRIDE], _rows_at_once(rows)
    begin, end = share(take(op), threads, n_embd)
    fetch(base + (used[0] * n_embd + begin) * row_bytes, min(AHEAD_BYTES, (end - begin) * row_bytes))
    while begin < n_embd:
        next_begin, next_end = share(take(op), threads, n_embd)
        if not op[DOWN.add]:
            for t in range(i64(op[DOWN.state])[N_TOKENS]):
                for c in range(begin, end):
                    out[t * stride + c] = np.float32(0.0)
        for u in range(n_used):
            expert = np.int64(used[u])
            next_row = used[u + 1] * n_embd + begin if u + 1 < n_used else used[0] * n_embd + next_begin
            first, n_pairs = np.int64(starts[expert]), np.int64(starts[expert + 1] - starts[expert])
            for k in range(n_pairs):
                xs[k] = x + (first + k) * x_bytes
            _pack(rows, xs, n_pairs, panels)
            for c in range(begin, end, at_once):
                i, count = expert * n_embd + c, min(at_once, end - c)
                ahead = base + (next_row if c + count == end else i + count) * row_bytes
                _multiply(rows, op[DOWN.dot], i, count, xs, n_pairs, panels, ahead, found, worker)
                for k in range(n_pairs):
                    pair = np.int64(order[first + k])
                    to = pair // op[DOWN.n_chosen] * stride + c
                    for r in range(count):
                        value = found[r * FEW + k]
                        value = value + f32(bias)[i + r] if bias else value
                        out[to + r] += weights[pair] * value
        begin, end = next_begin, next_end
