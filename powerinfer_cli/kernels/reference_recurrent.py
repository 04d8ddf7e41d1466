"""Operations of layers that keep a state of a sequence, in plain torch, float32. T tokens of one sequence."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "CHUNK",
    "blocks_of_columns",
    "columns_of_blocks",
    "convolve",
    "delta_rule",
    "delta_rule_in_chunks",
    "scan",
    "scan_in_chunks",
]

CHUNK = 64  # tokens


def convolve(x: Tensor, kept: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Causal, each channel by itself. x [T, C], kept [K - 1, C]: the inputs before these; weight [C, K], bias [C].

    What it makes [T, C], and what is to be kept.
    """
    whole = torch.cat((kept, x))
    y = torch.einsum("tck,ck->tc", whole.unfold(0, weight.shape[1], 1), weight)
    return y if bias is None else y + bias, whole[len(x) :]


def delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Tensor:
    """The recurrent form, token by token. q, k [T, H, K], of unit length, q scaled; v [T, H, V]; g (a factor), beta
    [T, H]; state [H, K, V], which is changed. -> [T, H, V]
    """
    found = []
    for t in range(len(q)):
        state.mul_(g[t, :, None, None])
        wrong = v[t] - torch.einsum("hkv,hk->hv", state, k[t])
        state.add_(torch.einsum("hk,hv->hkv", k[t], beta[t, :, None] * wrong))
        found.append(torch.einsum("hkv,hk->hv", state, q[t]))
    return torch.stack(found)


def delta_rule_in_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_g: Tensor, beta: Tensor, state: Tensor, size: int = CHUNK
) -> Tensor:
    """The same, `size` tokens at a time (WY form); log_g: logarithms of g. A chunk's corrections depend on each other
    by a triangular system; decays within it are differences of their sums, so that none is larger than 1. What does
    not depend on the state is done for all chunks at once.
    """
    size = min(size, len(q))
    qs, ks, vs, logs, b = (_chunks(x, size) for x in (q, k, v, log_g.unsqueeze(2), beta.unsqueeze(2)))
    sums = logs.squeeze(3).cumsum(2)  # [N, H, C]
    apart = (sums.unsqueeze(3) - sums.unsqueeze(2)).tril().exp().tril()  # [N, H, C, C]
    before, after = sums.exp().unsqueeze(3), (sums[..., -1:] - sums).exp().unsqueeze(3)
    system = b * (ks @ ks.mT) * apart
    one = torch.eye(size, device=q.device).expand_as(system)
    inverse = torch.linalg.solve_triangular(system, one, upper=False, unitriangular=True)
    own, of_state = inverse @ (b * vs), inverse @ (b * before * ks)
    asked, scores, kept, found = before * qs, (qs @ ks.mT) * apart, (after * ks).mT, torch.empty_like(vs)
    for i in range(len(qs)):
        new = own[i] - of_state[i] @ state
        found[i] = asked[i] @ state + scores[i] @ new
        state.mul_(before[i, :, -1:]).add_(kept[i] @ new)
    return found.transpose(1, 2).flatten(0, 1)[: len(q)]


def _chunks(x: Tensor, size: int) -> Tensor:
    """[T, H, D] -> [N, H, size, D], with zeros behind the last token: which decay nothing, and add nothing."""
    whole = F.pad(x, (0, 0, 0, 0, 0, -len(x) % size))
    return whole.view(-1, size, *x.shape[1:]).transpose(1, 2)


def scan(v: Tensor, b: Tensor, c: Tensor, log_g: Tensor, state: Tensor) -> Tensor:
    """Mamba-2, token by token. v [T, H, P], b, c [T, H, N]; log_g [T, H]: the logarithm of what a state is multiplied
    by first; state [H, N, P], which is changed. -> [T, H, P]
    """
    found = []
    for t in range(len(v)):
        state.mul_(log_g[t].exp()[:, None, None]).add_(torch.einsum("hn,hp->hnp", b[t], v[t]))
        found.append(torch.einsum("hnp,hn->hp", state, c[t]))
    return torch.stack(found)


def scan_in_chunks(v: Tensor, b: Tensor, c: Tensor, log_g: Tensor, state: Tensor, size: int = CHUNK) -> Tensor:
    """The same, `size` tokens at a time (state-space duality, Dao and Gu 2024): within a chunk as attention, whose
    scores decay; no factor is larger than 1.
    """
    found = []
    for begin in range(0, len(v), size):
        part = slice(begin, begin + size)
        vs, bs, cs = (x[part].transpose(0, 1) for x in (v, b, c))  # [H, C, P or N]
        sums = log_g[part].T.cumsum(1)  # [H, C]
        apart = (sums.unsqueeze(2) - sums.unsqueeze(1)).tril().exp().tril()  # [H, C, C]
        within = ((cs @ bs.transpose(1, 2)) * apart) @ vs
        found.append((within + sums.exp().unsqueeze(2) * (cs @ state)).transpose(0, 1))
        left = (sums[:, -1:] - sums).exp().unsqueeze(2)
        state.mul_(sums[:, -1].exp()[:, None, None]).add_((left * bs).transpose(1, 2) @ vs)
    return torch.cat(found)


def columns_of_blocks(blocks: Tensor, value_dim: int) -> Tensor:
    """States [H, N, P] of blocks of columns [H, ceil(P / width), N, width], as they are kept."""
    return blocks.transpose(1, 2).flatten(2)[..., :value_dim].contiguous()


def blocks_of_columns(state: Tensor, width: int) -> Tensor:
    """The opposite; zeros behind P."""
    n_blocks = -(-state.shape[2] // width)
    wide = F.pad(state, (0, n_blocks * width - state.shape[2]))
    return wide.view(*wide.shape[:2], n_blocks, width).transpose(1, 2)
