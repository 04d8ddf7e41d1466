"""A few tokens side by side, as rows meet them: one stream through memory, whatever the number of tokens.

A panel holds ABREAST tokens' numbers in vectors of 64 bytes, vector v of token t at (v * ABREAST + t) * 64. A token's
vectors are, in the order of a dot product,
  records        for each chunk of 16 groups its quants (8 vectors, or 4 of groups of 16), scales, sums of quants
  float formats  16 columns each, zeros behind the last
More abreast would share more of a row's unpacking, but take longer: sums of two rows and eight tokens, and eight tokens
at a time of the first cache, leave too little of both.
"""

from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.kernels.formats.format import padded
from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import doubled, f32, first, i8, i64, load64, load_f32, store64, store_f32

__all__ = ["ABREAST", "FOUR_PAY", "INPUTS", "first_vector", "pack_tokens", "panel_bytes", "token_bytes"]

ABREAST = 4  # tokens of a panel
FOUR_PAY = 3  # tokens: a product with four takes the time of as many alone
INPUTS = 2  # that an operation has at most: gate's and up's


@helper
def token_bytes(group, n):
    """Of a token's part of a panel."""
    if group == 0:
        return (n + 15) // 16 * 64
    return padded(n) // (16 * group) * (16 * group + 128)


def panel_bytes(n: int) -> int:
    """That FEW tokens of n numbers take at most, in any format."""
    return FEW * padded(n) * 4


@helper
def first_vector(panels, group, n, t):
    """Where token t begins."""
    return panels + t // ABREAST * ABREAST * token_bytes(group, n) + t % ABREAST * 64


@helper
def _pack_floats(x, n, to):
    for c in range(0, n // 16 * 16, 16):
        store_f32(f32(to + c * 4 * ABREAST), 0, load_f32(f32(x), c))
    if n % 16:
        c = n // 16 * 16
        store_f32(f32(to + c * 4 * ABREAST), 0, first(load_f32(f32(x), c), n % 16))


@helper
def _pack_record(x, group, n, to):
    p, quants, step = padded(n), group // 4, 64 * ABREAST
    q, sums = x + p * (3 if group == 32 else 5) // 2, x + p + p // (8 if group == 32 else 4)
    for c in range(p // (16 * group)):
        for k in range(quants):
            store64(i8(to), 0, load64(i8(q), (c * quants + k) * 64))
            to += step
        scales = load_f32(f32(x + p), c * 16) if group == 32 else doubled(f32(x + p), c * 8)
        store_f32(f32(to), 0, scales)
        store64(i8(to + step), 0, load64(i8(sums), c * 64))
        to += 2 * step


@helper
def pack_tokens(group, xs_address, n_tokens, n, panels):
    """Tokens at the addresses xs, int64 [n_tokens], to panels."""
    xs = i64(xs_address)
    for t in range(n_tokens):
        if group == 0:
            _pack_floats(xs[t], n, first_vector(panels, group, n, t))
        else:
            _pack_record(xs[t], group, n, first_vector(panels, group, n, t))
