"""Rotary positions, the cache and a token's attention in Triton. Places are read from the device's memory."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from powerinfer_cli.kernels.cache import PAGE as _PAGE
from powerinfer_cli.kernels.device.cache import DeviceCache
from powerinfer_cli.kernels.device.reference_attention import LOWEST
from powerinfer_cli.kernels.device.triton_rows import launch
from powerinfer_cli.model import RopeStyle
from powerinfer_cli.model.blocks import HeadNorms, Temperature

__all__ = ["attention", "join", "rope_store"]

_BLOCK = 32  # positions that a program reads at a time, all of one page
_EVERYTHING = 1 << 30  # positions
_LOWEST = tl.constexpr(LOWEST)


def rope_store(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    cache: DeviceCache,
    positions: Tensor,
    cells: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    style: RopeStyle | None,
    *,
    norms: HeadNorms[Tensor] | None = None,
) -> None:
    """Turn q and k in place; put turned keys, and values, into the cache. See the twin."""
    dim, n_kv = cache.head_dim, cache.n_head_kv
    n_head = q.shape[1] // dim
    n_rot = 0 if cos is None or style is None else 2 * cos.shape[1]
    launch(
        _rope_store,
        (len(q), n_head + (0 if k is None else 2 * n_kv)),
        *(
            q,
            q if k is None else k,
            q if v is None else v,
            cache.k,
            cache.k_scales,
            cache.v,
            cache.v_scales,
            positions,
            cells,
            cos,
            sin,
        ),
        *_norms(norms, dim),
        *(
            n_head,
            n_kv,
            cache.n_cells,
            norms is not None and norms.q.kind.is_centred,
            norms is not None and norms.after_rope,
            norms is not None and norms.values,
            dim,
            n_rot,
            style is not None and style.steps(n_rot) == (1, 2),
            max(32, triton.next_power_of_2(dim)),
        ),
        warps=1,
    )


def _norms(norms: HeadNorms[Tensor] | None, dim: int) -> tuple[Tensor | None, Tensor | None, int, int, float]:
    """Weights of queries and keys, from one head's to the next in each, epsilon."""
    if norms is None:
        return None, None, 0, 0, 0.0
    q, k = norms.q.weight, norms.k.weight
    return q, k, 0 if q.numel() == dim else dim, 0 if k.numel() == dim else dim, norms.q.eps


def attention(
    q: Tensor,
    cache: DeviceCache,
    n_past: Tensor,
    pages: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    alibi: float | None = None,
    temperature: Temperature | None = None,
    sinks: Tensor | None = None,
    chunk: int | None = None,
    parts: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """A single token's attention. q [1, n_head * head_dim], at position n_past -> the same shape. See the twin.

    The context is cut into parts that are read at the same time; a second kernel puts them together.
    """
    dim = cache.head_dim
    n_head, n_parts = q.shape[1] // dim, min(32, triton.next_power_of_2(triton.cdiv(len(pages) * _PAGE, 8 * _BLOCK)))
    width = max(32, triton.next_power_of_2(dim))
    sums = torch.empty(n_head, n_parts, dim + 2, device=q.device)  # behind the sums: highest score, sum of weights
    launch(
        _attend,
        (n_head, n_parts),
        *(q, cache.k, cache.k_scales, cache.v, cache.v_scales, n_past, pages, sums, n_head // cache.n_head_kv),
        *(cache.n_cells, scale, window or _EVERYTHING, softcap or 0.0, softcap is not None),
        *(alibi or 0.0, 1 << n_head.bit_length() - 1, alibi is not None),
        *_growth(temperature),
        *(chunk or 1, chunk is not None),
        *(n_parts, dim, width, _BLOCK, _PAGE),
    )
    out = torch.empty(1, n_head * (dim + 2 * parts), device=q.device) if out is None else out
    launch(_combine, (n_head,), sums, out, sinks, n_parts, parts, dim, width)
    return out


def join(own: Tensor, other: Tensor | None, sinks: Tensor | None, out: Tensor) -> Tensor:
    """Two parts of the positions as one. See the twin."""
    n_head = (own.shape[1] - out.shape[1]) // 2
    dim = out.shape[1] // n_head
    launch(_join, (len(out), n_head), own, other, sinks, out, dim, max(32, triton.next_power_of_2(dim)))
    return out


def _growth(temperature: Temperature | None) -> tuple[float, int, int, bool]:
    """Of queries, with their positions."""
    if temperature is None:
        return 0.0, 1, 0, False
    return temperature.gain, temperature.length, temperature.ahead, True


@triton.jit
def _put(numbers, scales, at, x, d, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """A key or value x [WIDTH], zeros behind DIM, to row `at` of the cache."""
    if scales is not None:
        groups = tl.reshape(x, [WIDTH // 32, 32])
        peak = tl.max(tl.abs(groups), axis=1)
        g = tl.arange(0, WIDTH // 32)
        tl.store(scales + at * (DIM // 32) + g, (peak / 127).to(tl.float16), mask=g < DIM // 32)
        inverse = tl.where(peak > 1e-30, 127 / tl.maximum(peak, 1e-30), 0)
        scaled = tl.reshape(groups * inverse[:, None], [WIDTH])
        x = tl.where(scaled < 0, scaled - 0.5, scaled + 0.5).to(tl.int32)  # towards 0: so to the nearest
    tl.store(numbers + at * DIM + d, x.to(numbers.dtype.element_ty), mask=d < DIM)


@triton.jit
def _normed(x, inside, weight, d, eps, LAYER: tl.constexpr, DIM: tl.constexpr):
    """A head by its root mean square, or by mean and variance; weight [DIM] or None."""
    if weight is None:
        return x
    if LAYER:
        x = tl.where(inside, x - tl.sum(x) / DIM, 0)
    return x * tl.rsqrt(tl.sum(x * x) / DIM + eps) * tl.load(weight + d, mask=inside, other=0)


@triton.jit
def _partner(d, N_ROT: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Of each dimension: its pair, the other one of it, and whether it is the first."""
    if INTERLEAVED:
        return d // 2, d ^ 1, d % 2 == 0
    first = d < N_ROT // 2
    return tl.where(first, d, d - N_ROT // 2), tl.where(first, d + N_ROT // 2, d - N_ROT // 2), first


@triton.jit
def _turned(
    source,
    d,
    norm,
    eps,
    cos,
    sin,
    LAYER: tl.constexpr,
    AFTER: tl.constexpr,
    N_ROT: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    DIM: tl.constexpr,
):
    """A head, turned by its position, and normalised before or after: cos and sin [N_ROT / 2]."""
    inside = d < DIM
    x = tl.load(source + d, mask=inside, other=0)
    shift = 0.0
    factor = 1.0
    if norm is not None and not AFTER:
        if LAYER:
            shift = tl.sum(x) / DIM
            x = tl.where(inside, x - shift, 0)
        factor = tl.rsqrt(tl.sum(x * x) / DIM + eps)
        x *= factor * tl.load(norm + d, mask=inside, other=0)
    if N_ROT > 0:
        pair, partner, first = _partner(d, N_ROT, INTERLEAVED)
        turning = d < N_ROT
        other = tl.load(source + partner, mask=turning, other=0)
        if norm is not None and not AFTER:
            other = (other - shift) * factor * tl.load(norm + partner, mask=turning, other=0)
        c, s = tl.load(cos + pair, mask=turning, other=1), tl.load(sin + pair, mask=turning, other=0)
        x = x * c + tl.where(first, -other, other) * tl.where(turning, s, 0)
    return _normed(x, inside, norm, d, eps, LAYER, DIM) if AFTER else x


@triton.jit
def _rope_store(
    q,
    k,
    v,
    keys,
    key_scales,
    values,
    value_scales,
    positions,
    cells,
    cos,
    sin,
    q_norm,
    k_norm,
    q_norm_step,
    k_norm_step,
    eps,
    n_head,
    n_kv,
    n_cells,
    LAYER: tl.constexpr,
    AFTER: tl.constexpr,
    VALUES: tl.constexpr,
    DIM: tl.constexpr,
    N_ROT: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """A program a token's head: first those of q, then of k, then of v."""
    t, head, d = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, WIDTH)
    position, cell = tl.load(positions + t), tl.minimum(tl.load(cells + t), n_cells - 1)
    if N_ROT > 0:
        cos += position * (N_ROT // 2)
        sin += position * (N_ROT // 2)
    if head < n_head:
        source = q + (t * n_head + head) * DIM
        if q_norm is not None:
            q_norm += head * q_norm_step
        x = _turned(source, d, q_norm, eps, cos, sin, LAYER, AFTER, N_ROT, INTERLEAVED, DIM)
        tl.debug_barrier()  # all has been read before any of it is written
        tl.store(source + d, x, mask=d < DIM)
    elif head < n_head + n_kv:
        of = head - n_head
        if k_norm is not None:
            k_norm += of * k_norm_step
        source = k + (t * n_kv + of) * DIM
        x = _turned(source, d, k_norm, eps, cos, sin, LAYER, AFTER, N_ROT, INTERLEAVED, DIM)
        tl.debug_barrier()
        tl.store(source + d, x, mask=d < DIM)
        _put(keys, key_scales, of.to(tl.int64) * n_cells + cell, x, d, DIM, WIDTH)
    else:
        of = head - n_head - n_kv
        x = tl.load(v + (t * n_kv + of) * DIM + d, mask=d < DIM, other=0)
        if VALUES:
            x *= tl.rsqrt(tl.sum(x * x) / DIM + eps)
            tl.store(v + (t * n_kv + of) * DIM + d, x, mask=d < DIM)
        _put(values, value_scales, of.to(tl.int64) * n_cells + cell, x, d, DIM, WIDTH)


@triton.jit
def _get(numbers, scales, row, d, seen, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Keys or values of rows [N] of the cache, float32 [N, WIDTH]; 0 where not seen [N] and behind DIM."""
    there = seen[:, None] & (d < DIM)[None, :]
    x = tl.load(numbers + row[:, None] * DIM + d[None, :], mask=there, other=0).to(tl.float32)
    if scales is not None:
        g = tl.arange(0, WIDTH // 32)
        there = seen[:, None] & (g < DIM // 32)[None, :]
        scale = tl.load(scales + row[:, None] * (DIM // 32) + g[None, :], mask=there, other=0).to(tl.float32)
        x = tl.reshape(tl.reshape(x, [seen.shape[0], WIDTH // 32, 32]) * scale[:, :, None], x.shape)
    return x


@triton.jit
def _attend(
    q,
    keys,
    key_scales,
    values,
    value_scales,
    n_past,
    pages,
    sums,
    group,
    n_cells,
    scale,
    window,
    softcap,
    CAPPED: tl.constexpr,
    alibi,
    n_power,
    LEANING: tl.constexpr,
    gain,
    length,
    ahead_by,
    TEMPERED: tl.constexpr,
    chunk,
    CHUNKED: tl.constexpr,
    n_parts,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
):
    """A head over a part of the positions. Every place of a block has a softmax of its own; they meet at the end.

    n_power: the largest power of two that is no more than there are heads.
    """
    head, part, d = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, WIDTH)
    n_seen = (tl.load(n_past) + 1).to(tl.int32)
    lowest = tl.maximum(n_seen - window, 0)
    if CHUNKED:
        lowest = (n_seen - 1) // chunk * chunk
    start = lowest // BLOCK * BLOCK
    size = tl.cdiv(tl.cdiv(n_seen - start, n_parts), BLOCK) * BLOCK
    begin = start + part * size
    end = tl.minimum(begin + size, n_seen)
    query = tl.load(q + head * DIM + d, mask=d < DIM, other=0) * scale
    slope = 0.0
    if TEMPERED:
        query *= 1 + gain * tl.log(1 + ((n_seen - 1 + ahead_by) // length).to(tl.float32))
    if LEANING:
        place = tl.where(head < n_power, head + 1, head - n_power + 0.5)
        slope = tl.exp2(-alibi * place / n_power)
    highest = tl.full([BLOCK], _LOWEST, tl.float32)
    weights = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK, WIDTH], tl.float32)
    page = tl.load(pages + begin // PAGE, mask=begin < end, other=0)
    for first in range(begin, end, BLOCK):
        at = tl.arange(0, BLOCK)
        here = tl.where(page < n_cells // PAGE, end, 0)
        seen = (first + at < here) & (first + at >= lowest)
        row = head // group * n_cells + page * PAGE + first % PAGE + at
        ahead = first + BLOCK
        page = tl.load(pages + ahead // PAGE, mask=ahead < end, other=0)  # is on its way meanwhile
        score = tl.sum(_get(keys, key_scales, row, d, seen, DIM, WIDTH) * query[None, :], axis=1)
        if CAPPED:  # by 1 - 2 / (1 + e**2x), which is tanh
            score = softcap * (1 - 2 / (1 + tl.exp(2 * score / softcap)))
        if LEANING:
            score -= slope * (n_seen - 1 - first - at).to(tl.float32)
        score = tl.where(seen, score, _LOWEST)
        peak = tl.maximum(highest, score)
        fade, weight = tl.exp(highest - peak), tl.where(seen, tl.exp(score - peak), 0)
        weights = weights * fade + weight
        total = total * fade[:, None] + weight[:, None] * _get(values, value_scales, row, d, seen, DIM, WIDTH)
        highest = peak
    peak = tl.max(highest, axis=0)
    fade = tl.exp(highest - peak)
    left = sums + (head * n_parts + part) * (DIM + 2)
    tl.store(left + d, tl.sum(total * fade[:, None], axis=0), mask=d < DIM)
    tl.store(left + DIM, peak)
    tl.store(left + DIM + 1, tl.sum(weights * fade))


@triton.jit
def _combine(sums, out, sinks, N_PARTS: tl.constexpr, PARTS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """The parts of a head as one, and its sink among them. PARTS: as a part again."""
    head, part, d = tl.program_id(0), tl.arange(0, N_PARTS), tl.arange(0, WIDTH)
    at = sums + (head * N_PARTS + part) * (DIM + 2)
    highest = tl.load(at + DIM)
    peak = tl.max(highest, axis=0)
    if sinks is not None:
        sink = tl.load(sinks + head)
        peak = tl.maximum(peak, sink)
    fade = tl.exp(highest - peak)
    weights = tl.sum(tl.load(at + DIM + 1) * fade)
    if sinks is not None:
        weights += tl.exp(sink - peak)
    total = tl.load(at[:, None] + d[None, :], mask=(d < DIM)[None, :], other=0)
    total = tl.sum(total * fade[:, None], axis=0)
    if PARTS:
        tl.store(out + head * (DIM + 2) + d, total, mask=d < DIM)
        tl.store(out + head * (DIM + 2) + DIM, peak)
        tl.store(out + head * (DIM + 2) + DIM + 1, weights)
    else:
        tl.store(out + head * DIM + d, total / weights, mask=d < DIM)


@triton.jit
def _join(own, other, sinks, out, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """A program a token's head."""
    row, head, d = tl.program_id(0).to(tl.int64) * tl.num_programs(1), tl.program_id(1), tl.arange(0, WIDTH)
    at = (row + head) * (DIM + 2)
    peak = tl.load(own + at + DIM)
    if other is not None:
        peak = tl.maximum(peak, tl.load(other + at + DIM))
    if sinks is not None:
        peak = tl.maximum(peak, tl.load(sinks + head))
    fade = tl.exp(tl.load(own + at + DIM) - peak)
    weights = tl.load(own + at + DIM + 1) * fade
    total = tl.load(own + at + d, mask=d < DIM, other=0) * fade
    if other is not None:
        fade = tl.exp(tl.load(other + at + DIM) - peak)
        weights += tl.load(other + at + DIM + 1) * fade
        total += tl.load(other + at + d, mask=d < DIM, other=0) * fade
    if sinks is not None:
        weights += tl.exp(tl.load(sinks + head) - peak)
    tl.store(out + (row + head) * DIM + d, total / weights, mask=d < DIM)
