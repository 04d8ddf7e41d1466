"""The plain twins of the device's attention in torch: rotary positions, the cache, and attention over it.

Where tokens stand, in their sequence and in the cache, is told by tensors on the device, so that one CUDA graph serves
all positions.
"""

from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from powerinfer_cli.kernels.cache import PAGE
from powerinfer_cli.kernels.device.cache import DeviceCache, cells_of, read_rows, write_rows
from powerinfer_cli.kernels.reference import rms_norm, rotate
from powerinfer_cli.model import NormKind, RopeStyle
from powerinfer_cli.model.blocks import HeadNorms, Norm, Temperature

__all__ = ["LOWEST", "SCRATCH_NUMBERS", "alibi_slopes", "attention", "join", "merge", "rope_store", "turn"]

SCRATCH_NUMBERS = 1 << 22
"""Keys, as many values, and scores of these, at a time: long contexts are gone through by heads and positions."""

LOWEST = -1e30  # below every score, and yet a number


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
    """`turn`, and turned keys, and values, into the cache, where pages are here. Without k and v nothing is put there.

    v may be k, if nobody asks for values of what is turned. cells int64 [T]: each token's place in the cache.
    """
    turn(q, k, v, cache.head_dim, positions, cos, sin, style, norms=norms)
    if k is None or v is None:
        return
    keys, values = (x.view(len(x), -1, cache.head_dim).transpose(0, 1) for x in (k, v))
    write_rows(cache.k, cache.k_scales, cells, keys)
    write_rows(cache.v, cache.v_scales, cells, values)


def turn(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    head_dim: int,
    positions: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    style: RopeStyle | None,
    *,
    norms: HeadNorms[Tensor] | None = None,
) -> None:
    """Turn q and k in place, norm them, and v; or q alone.

    q [T, n_head * head_dim], k and v [T, n_head_kv * head_dim], of any sequences; positions int64 [T]: each token's
    place in its sequence. cos and sin float32 [most positions, n_rot / 2], None: nothing is turned. `norms`: of each
    head by itself, not of all together.
    """
    turns = None
    if cos is not None and sin is not None and style is not None:
        turns = cos.index_select(0, positions), sin.index_select(0, positions), style
    _turn(q, head_dim, norms, None if norms is None else norms.q, turns)
    if k is None or v is None:
        return
    if norms is not None and norms.values:
        values = v.view(len(v), -1, head_dim)
        values.copy_(rms_norm(values, torch.ones(1, device=v.device), norms.k.eps))
    _turn(k, head_dim, norms, None if norms is None else norms.k, turns)


def _turn(
    x: Tensor,
    head_dim: int,
    norms: HeadNorms[Tensor] | None,
    norm: Norm[Tensor] | None,
    turns: tuple[Tensor, Tensor, RopeStyle] | None,
) -> None:
    """Queries or keys [T, H * D], normed and turned in place."""
    heads = found = x.view(len(x), -1, head_dim)
    after = norms is not None and norms.after_rope
    if norm is not None and not after:
        found = _normed(norm, found)
    if turns is not None:
        found = rotate(found, *turns)
    if norm is not None and after:
        found = _normed(norm, found)
    if found is not heads:
        heads.copy_(found)


def _normed(norm: Norm[Tensor], x: Tensor) -> Tensor:
    """Heads x [T, H, D] by a weight [D] for all, or [H * D] of their own."""
    weight = norm.weight.view(-1, x.shape[-1])
    match norm.kind:
        case NormKind.RMS:
            return rms_norm(x, weight, norm.eps)
        case NormKind.LAYER:
            return F.layer_norm(x, x.shape[-1:], eps=norm.eps) * weight
    assert_never(norm.kind)


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
    limit: int | None = None,
    begin: int = 0,
    parts: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Causal attention of T tokens of one sequence, at positions n_past + t. q [T, n_head * head_dim] -> that shape.

    n_past int64 [1]; pages int64 [most pages of a sequence], negative behind the sequence's last; what lies in pages
    that the cache has not is not seen. Token t sees positions up to n_past + t, `window` of them or all, by scores that
    are scaled, capped as c tanh(score / c) where there is a softcap c, and less by a head's slope times the distance
    where there is alibi; n_head is a multiple of n_head_kv. temperature: of queries. sinks [n_head]: scores of each
    head's softmax that have no values. chunk: no position is seen before the last multiple of it. `limit`: n_past + T,
    for callers that know it: then nothing is read that no token sees. begin: pages are those from this position on, a
    multiple of PAGE.
    parts: [T, n_head * (head_dim + 2)], what `join` takes, instead; without sinks.
    """
    n_token, most, n_head_kv, head_dim = len(q), begin + len(pages) * PAGE, cache.n_head_kv, cache.head_dim
    n_seen = min(limit or most, most)
    first = begin if limit is None or window is None else max(begin, limit - n_token - window + 1)
    own = n_past + torch.arange(n_token, device=q.device).unsqueeze(1)
    if temperature is not None:
        q = q * (1 + temperature.gain * torch.log1p(((own + temperature.ahead) // temperature.length).float()))
    # The queries that share a key's head are rows of one matrix: [n_head_kv, group * T, head_dim].
    queries = q.view(n_token, n_head_kv, -1, head_dim).permute(1, 2, 0, 3)
    group = queries.shape[1]
    queries = queries.reshape(n_head_kv, group * n_token, head_dim)
    width = max(head_dim, group * n_token)
    length = max(PAGE, SCRATCH_NUMBERS // width)  # positions at a time
    step = max(1, SCRATCH_NUMBERS // (width * max(1, min(length, n_seen - first))))
    slopes = None if alibi is None else alibi_slopes(n_head_kv * group, alibi, q.device).view(n_head_kv, group, 1, 1)
    plain = softcap is None and alibi is None and sinks is None and not parts and n_seen - first <= length
    softmax = _SoftmaxSoFar(queries, scale, softcap, plain=plain)
    cells = cells_of(pages, n_seen - begin)
    for at in range(first, n_seen, length):
        some = cells[at - begin : at - begin + length]
        positions = torch.arange(at, at + len(some), device=q.device)
        visible = _visible(positions, own, window, chunk) & (some >= 0) & (some < cache.n_pages * PAGE)
        mask, anybody = visible.repeat(group, 1), visible.any(0).unsqueeze(1)
        some = some.clamp(0, cache.n_cells - 1)
        for heads in (slice(head, head + step) for head in range(0, n_head_kv, step)):
            # What lies where nobody looks may be no numbers, and 0 * NaN is NaN.
            k, v = (torch.where(anybody, read_rows(*part, some), 0) for part in cache.heads(heads))
            lean = None if slopes is None else (slopes[heads] * (positions - own)).flatten(1, 2)
            softmax.add(heads, k, v, mask, lean)
    found = softmax.found.view(n_head_kv, group, n_token, -1).permute(2, 0, 1, 3).reshape(n_token, -1)
    if not (plain or parts):
        found = join(found, None, sinks, torch.empty_like(q))
    return found if out is None else out.copy_(found)


def _visible(positions: Tensor, own: Tensor, window: int | None, chunk: int | None) -> Tensor:
    """[T, S]: which positions [S] tokens at `own` [T, 1] see."""
    visible = positions <= own
    if window is not None:
        visible = visible & (positions > own - window)
    return visible if chunk is None else visible & (positions >= own // chunk * chunk)


def join(own: Tensor, other: Tensor | None, sinks: Tensor | None, out: Tensor) -> Tensor:
    """Attention of two parts of the positions as one, in out [T, n_head * head_dim].

    Parts [T, n_head * (head_dim + 2)] have for each head its sum of exp(score - highest) * value, the highest score
    (-1e30: nothing was seen), and the sum of exponentials. sinks [n_head] are added once.
    """
    n_token = len(own)
    n_head = (own.shape[1] - out.shape[1]) // 2
    parts = torch.stack([part.view(n_token, n_head, -1) for part in (own, other) if part is not None])
    highest = parts[..., -2]
    peak = highest.amax(0)
    if sinks is not None:
        peak = torch.maximum(peak, sinks)
    fades = torch.exp(highest - peak)
    weights = (parts[..., -1] * fades).sum(0)
    if sinks is not None:
        weights = weights + torch.exp(sinks - peak)
    sums = (parts[..., :-2] * fades.unsqueeze(-1)).sum(0)
    return out.copy_((sums / weights.unsqueeze(-1)).view(out.shape))


def merge(one: Tensor, other: Tensor) -> Tensor:
    """Two parts of the positions, as `join` takes them, as one: put into the first, [T, n_head, head_dim + 2]."""
    highest = torch.maximum(one[..., -2], other[..., -2])
    own, others = (torch.exp(part[..., -2] - highest).unsqueeze(-1) for part in (one, other))
    one[..., :-2].mul_(own).add_(other[..., :-2] * others)
    one[..., -1:].mul_(own).add_(other[..., -1:] * others)
    one[..., -2] = highest
    return one


class _SoftmaxSoFar:
    """Of queries [heads, rows, head_dim]. `found`: as a part of `join` by rows; where all positions come at once and
    nothing is to be joined (`plain`), what was attended to.
    """

    def __init__(self, queries: Tensor, scale: float, softcap: float | None, *, plain: bool) -> None:
        self._queries, self._scale, self._softcap, self._plain = queries, scale, softcap, plain
        self.found = queries.new_zeros((*queries.shape[:-1], queries.shape[-1] + (0 if plain else 2)))
        if not plain:
            self.found[..., -2] = LOWEST

    def add(self, heads: slice, k: Tensor, v: Tensor, mask: Tensor, lean: Tensor | None) -> None:
        """Keys and values [some heads, S, head_dim], mask [rows, S]; lean [some heads, rows, S] is added to scores."""
        q, found = self._queries[heads], self.found[heads]
        if self._plain:
            given = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
            found.copy_(F.scaled_dot_product_attention(*given, attn_mask=mask, scale=self._scale).squeeze(0))
            return
        scores = self._scale * (q @ k.transpose(-1, -2))
        if self._softcap is not None:
            scores = self._softcap * torch.tanh(scores / self._softcap)
        if lean is not None:
            scores = scores + lean
        scores = scores.masked_fill(~mask, LOWEST)
        sums, before, total = found[..., :-2], found[..., -2:-1], found[..., -1:]
        highest = torch.maximum(before, scores.amax(-1, keepdim=True))
        weights, fade = torch.exp(scores - highest).masked_fill(~mask, 0), torch.exp(before - highest)
        sums.mul_(fade).add_(weights @ v)
        total.mul_(fade).add_(weights.sum(-1, keepdim=True))
        before.copy_(highest)


def alibi_slopes(n_head: int, alibi: float, device: torch.device) -> Tensor:
    """[n_head], made there: nothing is copied while a graph is recorded. See `alibi_exponents`."""
    n, head = 1 << n_head.bit_length() - 1, torch.arange(n_head, device=device)
    return torch.exp2(-alibi / n * torch.where(head < n, head + 1, head - n + 0.5))
