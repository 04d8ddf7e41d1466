"""Chosen experts in bundles of 16 rows, for one token or a few: a bundle is read, and unpacked, once for all tokens
that have chosen its expert.

What a token gets does not depend on the others, to the bit. Each thread has an expert's tokens in panels of its own; an
expert's rows are whole bundles.
"""

import numpy as np

from powerinfer_cli.kernels.cpu.experts.places import DOWN, GATE_UP, place_of
from powerinfer_cli.kernels.cpu.experts.routing import N_USED
from powerinfer_cli.kernels.cpu.rows import BASE, COLUMNS, DOT_WHOLE, GROUP, HAS_MIN, OFFSET, STRIDE, dot_whole
from powerinfer_cli.kernels.cpu.shares import AHEAD_BYTES, fetch, share
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS
from powerinfer_cli.kernels.formats.format import BUNDLE
from powerinfer_cli.kernels.formats.whole import pack_bundle_tokens
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import address_of, f32, i32, i64, load_f32, splat, stack_f32, store_f32, zero

__all__ = ["down_whole", "gate_up_whole"]


@helper
def _packed(rows, xs, n, panels):
    """Where an expert's n tokens, at the addresses xs, are for DOT_WHOLE: one alone is read as it is."""
    if n == 1:
        return xs[0]
    pack_bundle_tokens(rows[GROUP], rows[HAS_MIN], rows[OFFSET], address_of(xs), n, rows[COLUMNS], panels)
    return panels


@helper
def _biased(found, k, bias, i):
    """The k-th token's numbers of a bundle, whose first row is i."""
    value = load_f32(found, k * BUNDLE)
    return value + load_f32(f32(bias), i) if bias else value


@kernel(OPERATION, "experts_gate_up_whole")
def gate_up_whole(op_address, worker):
    """Over the bundles of gate and up of all experts in use, one behind the other."""
    op = i64(op_address)
    ff, stride, threads = op[GATE_UP.ff], op[GATE_UP.stride], op[GATE_UP.threads]
    starts, order = i32(op[GATE_UP.starts]), i32(op[GATE_UP.order])
    panels = op[GATE_UP.panels] + worker * op[GATE_UP.panels_bytes]
    xs, found = i64(address_of(stack_f32(32))), stack_f32(256)  # of FEW tokens
    n = i64(op[GATE_UP.counts])[N_USED] * (ff // BUNDLE) * (2 if op[GATE_UP.gate] else 1)
    begin, end = share(take(op), threads, n)
    if begin < n:
        fetch(place_of(op, begin * BUNDLE, n * BUNDLE)[2], AHEAD_BYTES)
    packed, x = np.int64(-1), np.int64(0)
    while begin < n:
        i, is_up, there, left = place_of(op, begin * BUNDLE, n * BUNDLE)
        last = min(begin + left // BUNDLE, end)
        next_begin, next_end = (last, end) if last < end else share(take(op), threads, n)
        next_address = place_of(op, next_begin * BUNDLE, n * BUNDLE)[2] if next_begin < n else there
        rows = i64(op[GATE_UP.up] if is_up else op[GATE_UP.gate])
        bias = op[GATE_UP.up_bias] if is_up else op[GATE_UP.gate_bias]
        out = f32(op[GATE_UP.ups] if is_up else op[GATE_UP.gates])
        expert, bundle = i // ff, rows[STRIDE] * BUNDLE
        first, n_pairs = np.int64(starts[expert]), np.int64(starts[expert + 1] - starts[expert])
        kind = expert * 64 + rows[GROUP] + rows[HAS_MIN]
        kind = kind * 1024 + rows[OFFSET]  # gate's tokens are up's, if both have the same panels
        if packed != kind:
            for k in range(n_pairs):
                xs[k] = op[GATE_UP.up_x] + np.int64(order[first + k]) // op[GATE_UP.n_chosen] * op[GATE_UP.up_x_bytes]
            packed, x = kind, _packed(rows, xs, n_pairs, panels)
        for _ in range(begin, last):
            begin += 1
            ahead = next_address if begin == last else there + bundle
            dot_whole(rows[DOT_WHOLE], there, x, n_pairs, rows[COLUMNS], ahead, address_of(found))
            for k in range(n_pairs):
                store_f32(out, (first + k) * stride + i - expert * ff, _biased(found, k, bias, i))
            i += BUNDLE
            there += bundle
        begin, end = next_begin, next_end


@kernel(OPERATION, "experts_down_whole")
def down_whole(op_address, worker):
    """A share is some bundles of every expert's, a run of each."""
    op = i64(op_address)
    rows, x, x_bytes, bias = i64(op[DOWN.rows]), op[DOWN.x], op[DOWN.x_bytes], op[DOWN.bias]
    weights, threads, n = f32(op[DOWN.weights]), op[DOWN.threads], op[DOWN.n_embd] // BUNDLE
    starts, order, used = i32(op[DOWN.starts]), i32(op[DOWN.order]), i32(op[DOWN.used])
    out, stride, n_used = f32(op[DOWN.out]), op[DOWN.stride], i64(op[DOWN.counts])[N_USED]
    panels = op[DOWN.panels] + worker * op[DOWN.panels_bytes]
    xs, found = i64(address_of(stack_f32(32))), stack_f32(256)  # of FEW tokens
    base, bundle = rows[BASE], rows[STRIDE] * BUNDLE
    begin, end = share(take(op), threads, n)
    fetch(base + (used[0] * n + begin) * bundle, min(AHEAD_BYTES, (end - begin) * bundle))
    while begin < n:
        next_begin, next_end = share(take(op), threads, n)
        if not op[DOWN.add]:
            for t in range(i64(op[DOWN.state])[N_TOKENS]):
                for c in range(begin * BUNDLE, end * BUNDLE, BUNDLE):
                    store_f32(out, t * stride + c, zero())
        for u in range(n_used):
            expert = np.int64(used[u])
            following = used[u + 1] * n + begin if u + 1 < n_used else used[0] * n + next_begin
            first, n_pairs = np.int64(starts[expert]), np.int64(starts[expert + 1] - starts[expert])
            for k in range(n_pairs):
                xs[k] = x + (first + k) * x_bytes
            tokens = _packed(rows, xs, n_pairs, panels)
            for b in range(begin, end):
                i = expert * n + b
                ahead = base + (following if b + 1 == end else i + 1) * bundle
                dot_whole(rows[DOT_WHOLE], base + i * bundle, tokens, n_pairs, rows[COLUMNS], ahead, address_of(found))
                for k in range(n_pairs):
                    pair = np.int64(order[first + k])
                    to = pair // op[DOWN.n_chosen] * stride + b * BUNDLE
                    value = splat(weights[pair]) * _biased(found, k, bias, i * BUNDLE)
                    store_f32(out, to, load_f32(out, to) + value)
        begin, end = next_begin, next_end
