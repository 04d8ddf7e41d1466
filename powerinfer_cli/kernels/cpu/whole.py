"""Tokens, up to FEW, times a matrix in bundles: each is read once for all of them, 16 rows side by side."""

import numpy as np

from powerinfer_cli.kernels.cpu.rows import BASE, COLUMNS, DOT_WHOLE, GROUP, HAS_MIN, OFFSET, ROWS, STRIDE, dot_whole
from powerinfer_cli.kernels.cpu.shares import AHEAD_BYTES, fetch, share
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS
from powerinfer_cli.kernels.formats.format import BUNDLE
from powerinfer_cli.kernels.formats.whole import pack_bundle_tokens
from powerinfer_cli.kernels.jit import helper, kernel
from powerinfer_cli.kernels.jit.program import operands
from powerinfer_cli.kernels.jit.team import OPERATION, take
from powerinfer_cli.kernels.simd import address_of, f32, i64, load_f32, stack_f32, store_f32

__all__ = ["WHOLE", "matvec_whole"]

WHOLE = operands("state rows x x_bytes panels panels_bytes out out_bytes bias threads")


@helper
def _keep(found, i, count, out, bias):
    """A bundle's numbers of one token, with the bias, to its rows."""
    if count == BUNDLE:
        store_f32(out, i, load_f32(found, 0) + load_f32(f32(bias), i) if bias else load_f32(found, 0))
        return
    for r in range(count):
        out[i + r] = found[r] + f32(bias)[i + r] if bias else found[r]


@kernel(OPERATION, "matvec_whole")
def matvec_whole(op_address, worker):
    """Without a state one token, whose record is read as it is; else each thread has the tokens in panels of its own.
    Shares are of bundles, and while one is multiplied the next one is asked for.
    """
    op = i64(op_address)
    rows, out, out_bytes, bias, threads = (
        i64(op[WHOLE.rows]),
        op[WHOLE.out],
        op[WHOLE.out_bytes],
        op[WHOLE.bias],
        op[WHOLE.threads],
    )
    n_tokens, x = i64(op[WHOLE.state])[N_TOKENS] if op[WHOLE.state] else np.int64(1), op[WHOLE.x]
    xs, found = i64(address_of(stack_f32(32))), f32(address_of(stack_f32(256)))  # of FEW tokens
    base, bundle, columns = rows[BASE], rows[STRIDE] * BUNDLE, rows[COLUMNS]
    n = (rows[ROWS] + BUNDLE - 1) // BUNDLE
    begin, end = share(take(op), threads, n)
    if begin < n:
        fetch(base + begin * bundle, min(AHEAD_BYTES, bundle))
        if n_tokens > 1:
            for t in range(n_tokens):
                xs[t] = op[WHOLE.x] + t * op[WHOLE.x_bytes]
            x = op[WHOLE.panels] + worker * op[WHOLE.panels_bytes]
            pack_bundle_tokens(rows[GROUP], rows[HAS_MIN], rows[OFFSET], address_of(xs), n_tokens, columns, x)
    while begin < n:
        next_begin, next_end = share(take(op), threads, n) if begin == end else (end, end)
        for i in range(begin, end):
            if i + 1 == end:
                next_begin, next_end = share(take(op), threads, n)
            ahead = base + (next_begin if i + 1 == end else i + 1) * bundle
            dot_whole(rows[DOT_WHOLE], base + i * bundle, x, n_tokens, columns, ahead, address_of(found))
            count = min(BUNDLE, rows[ROWS] - i * BUNDLE)
            for t in range(n_tokens):
                _keep(f32(address_of(found) + t * 64), i * BUNDLE, count, f32(out + t * out_bytes), bias)
        begin, end = next_begin, next_end
