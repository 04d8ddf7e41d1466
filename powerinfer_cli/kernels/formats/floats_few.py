"""Rows of float formats times a few tokens: each number widened once for a panel of tokens. As DOT of each."""

from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.kernels.formats.token_panels import ABREAST, token_bytes
from powerinfer_cli.kernels.jit import exact_helper, helper
from powerinfer_cli.kernels.simd import (
    add_products,
    f32,
    i64,
    neighbours,
    prefetch,
    store_sums,
    tokens_at,
    zeros,
)

__all__ = ["floats_dot_few", "floats_dot_some", "tail_of"]


def tail_of(one):
    """tail(row, x, i, n, result): result + the products from i to n, in their order."""

    @exact_helper
    def tail(row, x, i, n, result):
        while i < n:
            result += one(row, i) * x[i]
            i += 1
        return result

    return tail


def _meeting(size, pointer, load, one):
    """meet(row, xs, n, ahead, out): a row times ABREAST tokens of panels, whose first vectors are at xs; as DOT's four
    sums. finish(row, x, i, n, result): and a token's last columns.
    """
    step, nothing, store = 64 * ABREAST, zeros(ABREAST), store_sums(ABREAST)

    @helper
    def meet(row_address, xs, n, ahead, out):
        """How many columns are done; less than 16 are left."""
        row = pointer(row_address)
        a = b = c = d = nothing()
        i = 0
        while i + 64 <= n:
            for line in range(i * size, (i + 64) * size, 64):
                prefetch(ahead + line)
            x = i // 16 * step
            a = add_products(a, load(row, i), xs, x)
            b = add_products(b, load(row, i + 16), xs, x + step)
            c = add_products(c, load(row, i + 32), xs, x + 2 * step)
            d = add_products(d, load(row, i + 48), xs, x + 3 * step)
            i += 64
        while i + 16 <= n:
            a = add_products(a, load(row, i), xs, i // 16 * step)
            i += 16
        store(a, b, c, d, out)
        return i

    rest = tail_of(one)

    @helper
    def finish(row_address, x, i, n, result):
        return rest(pointer(row_address), f32(x + i // 16 * step - i * 4), i, n, result)

    return meet, finish


def floats_dot_few(*format_math):
    """The DOT_FEW of a float format, of what its DOT is made of."""
    (meet, finish), side_by_side = _meeting(*format_math), neighbours(ABREAST)

    def dot_few(rows, stride, n_rows, x, n_tokens, n, ahead, out):
        size = token_bytes(0, n)
        for r in range(n_rows):
            row = rows + r * stride
            for t in range(0, n_tokens, ABREAST):
                found, panel = f32(out + (r * FEW + t) * 4), x + t * size
                i = meet(row, side_by_side(panel), n, ahead + r * stride if t == 0 else row, found)
                if i < n:
                    for k in range(ABREAST):
                        found[k] = finish(row, panel + 64 * k, i, n, found[k])

    return dot_few


def floats_dot_some(*format_math):
    """The DOT_SOME of a float format."""
    (meet, finish), those = _meeting(*format_math), tokens_at(ABREAST)

    def dot_some(row, xs_address, n, ahead, out):
        xs, found = i64(xs_address), f32(out)
        i = meet(row, those(xs), n, ahead, found)
        if i < n:
            for k in range(ABREAST):
                found[k] = finish(row, xs[k], i, n, found[k])

    return dot_some
