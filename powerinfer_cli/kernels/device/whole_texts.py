"""Attention of texts that are read whole, of which nothing is kept: in torch, some queries at a time."""

import torch
from torch import Tensor

from powerinfer_cli.kernels.device.reference_attention import SCRATCH_NUMBERS, alibi_slopes

__all__ = ["QUERY_SCORES", "attention_of_text", "queries_at_once"]

QUERY_SCORES = 4
"""Tensors of scores that are there at a time, at most."""


def queries_at_once(n_token: int, n_head: int) -> int:
    """Of a text of so many tokens."""
    return max(1, min(n_token, SCRATCH_NUMBERS // (n_head * n_token)))


def attention_of_text(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    head_dim: int,
    *,
    scale: float,
    softcap: float | None = None,
    alibi: float | None = None,
    reach: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Each of a text's T tokens sees all of it, or with a reach so many to each side. -> [T, n_head * head_dim]

    q [T, n_head * head_dim]; k and v [T, n_head_kv * head_dim], of which n_head is a multiple. Scores are as those of
    `reference_attention.attention`; alibi's distances are to both sides.
    """
    n_token = len(q)
    keys, values = (x.view(n_token, -1, head_dim).transpose(0, 1) for x in (k, v))  # [n_head_kv, T, head_dim]
    heads = q.view(n_token, len(keys), -1, head_dim).permute(1, 2, 0, 3)  # [n_head_kv, group, T, head_dim]
    group, n_head = heads.shape[1], q.shape[1] // head_dim
    slopes = None if alibi is None else alibi_slopes(n_head, alibi, q.device).view(len(keys), group, 1, 1)
    out = torch.empty_like(q) if out is None else out
    step = queries_at_once(n_token, n_head)
    for at in range(0, n_token, step):
        end = min(at + step, n_token)
        first, last = (0, n_token) if reach is None else (max(0, at - reach), min(n_token, end + reach))
        own, seen = torch.arange(at, end, device=q.device), torch.arange(first, last, device=q.device)
        distances = (own.unsqueeze(1) - seen).abs()
        some = heads[:, :, at:end].reshape(len(keys), -1, head_dim)
        scores = (some @ keys[:, first:last].transpose(1, 2)).mul_(scale).view(len(keys), group, end - at, -1)
        if softcap is not None:
            scores = scores.div_(softcap).tanh_().mul_(softcap)
        if slopes is not None:
            scores -= slopes * distances
        if reach is not None:
            scores.masked_fill_(distances > reach, -torch.inf)
        found = scores.softmax(-1).flatten(1, 2) @ values[:, first:last]
        out[at:end] = found.view(len(keys), group, end - at, head_dim).permute(2, 0, 1, 3).reshape(end - at, -1)
    return out
