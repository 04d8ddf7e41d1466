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

__all__ = ["SCRATCH_NUMBERS", "attention", "rope_store"]

SCRATCH_NUMBERS = 1 << 22
"""Keys, and as many values, that are read at a time: heads of long contexts come one after the other."""


def rope_store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: DeviceCache,
    positions: Tensor,
    cells: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    style: RopeStyle | None,
    *,
    norms: HeadNorms[Tensor] | None = None,
) -> None:
    """Turn q in place; put turned keys, and values, into the cache.

    q [T, n_head * head_dim], k and v [T, n_head_kv * head_dim] (k may be changed too), of any sequences; positions
    and cells int64 [T]: each token's place in its sequence, and in the cache. cos and sin float32 [most positions,
    n_rot / 2], None: nothing is turned. `norms`: of each head by itself, not of all together.
    """
    n_token, head_dim = len(q), cache.head_dim
    heads, keys, values = (x.view(n_token, -1, head_dim) for x in (q, k, v))
    turned = heads
    if norms is not None and not norms.after_rope:
        turned, keys = _normed(norms.q, turned), _normed(norms.k, keys)
    if cos is not None and sin is not None and style is not None:
        cos, sin = cos.index_select(0, positions), sin.index_select(0, positions)
        turned, keys = rotate(turned, cos, sin, style), rotate(keys, cos, sin, style)
    if norms is not None and norms.after_rope:
        turned, keys = _normed(norms.q, turned), _normed(norms.k, keys)
    if turned is not heads:
        heads.copy_(turned)
    write_rows(cache.k, cache.k_scales, cells, keys.transpose(0, 1))
    write_rows(cache.v, cache.v_scales, cells, values.transpose(0, 1))


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
    out: Tensor | None = None,
) -> Tensor:
    """Causal attention of T tokens of one sequence, at positions n_past + t. q [T, n_head * head_dim] -> that shape.

    n_past int64 [1]; pages int64 [most pages of a sequence], negative behind the sequence's last. Token t sees
    positions up to n_past + t, `window` of them or all, by scores that are scaled, capped as c tanh(score / c) where
    there is a softcap c, and less by a head's slope times the distance where there is alibi; n_head is a multiple of
    n_head_kv. temperature: of queries. sinks [n_head]: scores of each head's softmax that have no values. chunk: no
    position is seen before the last multiple of it. `limit`:
    n_past + T, for callers that know it: then nothing is read that no token sees.
    """
    n_token, most, head_dim = len(q), len(pages) * PAGE, cache.head_dim
    n_seen = min(limit or most, most)
    first = 0 if limit is None or window is None else max(0, limit - n_token - window + 1)
    cells = cells_of(pages, n_seen)[first:]
    positions = torch.arange(first, n_seen, device=q.device)
    own = n_past + torch.arange(n_token, device=q.device).unsqueeze(1)
    visible = positions <= own  # [T, S]
    if window is not None:
        visible = visible & (positions > own - window)
    if chunk is not None:
        visible = visible & (positions >= own // chunk * chunk)
    if temperature is not None:
        q = q * (1 + temperature.gain * torch.log1p(((own + temperature.ahead) // temperature.length).float()))
    # The queries that share a key's head are rows of one matrix: [n_head_kv, group * T, head_dim].
    queries = q.view(n_token, cache.n_head_kv, -1, head_dim).permute(1, 2, 0, 3)
    group = queries.shape[1]
    queries = queries.reshape(cache.n_head_kv, group * n_token, head_dim)
    found = torch.empty_like(queries)
    mask, seen = visible.repeat(group, 1), visible.any(0).unsqueeze(1)
    step = max(1, SCRATCH_NUMBERS // (len(cells) * head_dim)) if alibi is None else 1
    slopes = None if alibi is None else _slopes(cache.n_head_kv * group, alibi, q.device)
    for begin in range(0, cache.n_head_kv, step):
        heads = slice(begin, begin + step)
        k, v = (read_rows(*part, cells) for part in cache.heads(heads))
        # What lies behind may be no numbers, and 0 * NaN is NaN.
        k, v = (torch.where(seen, x, 0).unsqueeze(0) for x in (k, v))
        lean = None
        if slopes is not None:
            lean = (slopes[begin * group : (begin + 1) * group].view(-1, 1, 1) * (positions - own)).flatten(0, 1)
        sink = None
        if sinks is not None:
            sink = sinks.view(cache.n_head_kv, group, 1, 1)[heads].expand(-1, -1, n_token, 1).flatten(1, 2)
        found[heads] = _attended(queries[heads].unsqueeze(0), k, v, mask, scale, softcap, lean, sink).squeeze(0)
    found = found.view(cache.n_head_kv, group, n_token, head_dim).permute(2, 0, 1, 3).reshape(n_token, -1)
    return found if out is None else out.copy_(found)


def _slopes(n_head: int, alibi: float, device: torch.device) -> Tensor:
    """[n_head], made there: nothing is copied while a graph is recorded. See `alibi_exponents`."""
    n, head = 1 << n_head.bit_length() - 1, torch.arange(n_head, device=device)
    return torch.exp2(-alibi / n * torch.where(head < n, head + 1, head - n + 0.5))


def _attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    scale: float,
    softcap: float | None,
    lean: Tensor | None,
    sink: Tensor | None,
) -> Tensor:
    """mask and `lean`, what is added to scores, [rows of q, positions]; sink [heads, rows of q, 1]."""
    if softcap is None and lean is None and sink is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    scores = scale * (q @ k.transpose(-1, -2))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if lean is not None:
        scores = scores + lean
    scores = scores.masked_fill(~mask, -torch.inf)
    if sink is not None:
        return torch.cat((scores, sink.unsqueeze(0)), -1).softmax(-1)[..., :-1] @ v
    return scores.softmax(-1) @ v
