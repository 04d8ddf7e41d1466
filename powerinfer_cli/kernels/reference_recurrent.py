"""Operations of layers that keep a state of a sequence, in plain torch, float32. T tokens of one sequence."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "CHUNK",
    "blocks_of_columns",
    "convolve",
    "delta_rule",
    "delta_rule_in_chunks",
    "scan",
    "scan_in_chunks",
    "scanned_columns",
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
    by a triangular system; decays within it are differences of their sums, so that none is larger than 1.
    """
    found = []
    for begin in range(0, len(q), size):
        part = slice(begin, begin + size)
        qs, ks, vs = (x[part].transpose(0, 1) for x in (q, k, v))  # [H, C, K or V]
        b, sums = beta[part].T, log_g[part].T.cumsum(1)  # [H, C]
        apart = (sums.unsqueeze(2) - sums.unsqueeze(1)).tril().exp().tril()  # [H, C, C]
        before = sums.exp().unsqueeze(2)
        mixed = b.unsqueeze(2) * (ks @ ks.transpose(1, 2)) * apart
        system = mixed.tril(-1) + torch.eye(ks.shape[1], device=ks.device)
        wrong = b.unsqueeze(2) * (vs - before * (ks @ state))
        new = torch.linalg.solve_triangular(system, wrong, upper=False, unitriangular=True)
        found.append((before * (qs @ state) + ((qs @ ks.transpose(1, 2)) * apart) @ new).transpose(0, 1))
        left = (sums[:, -1:] - sums).exp().unsqueeze(2)
        state.mul_(sums[:, -1].exp()[:, None, None]).add_((left * ks).transpose(1, 2) @ new)
    return torch.cat(found)


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


def scanned_columns(blocks: Tensor, value_dim: int) -> Tensor:
    """States [H, N, P] of blocks of columns [H, ceil(P / width), N, width], as they are kept."""
    return blocks.transpose(1, 2).flatten(2)[..., :value_dim].contiguous()


def blocks_of_columns(state: Tensor, width: int) -> Tensor:
    """The opposite; zeros behind P."""
    n_blocks = -(-state.shape[2] // width)
    wide = F.pad(state, (0, n_blocks * width - state.shape[2]))
    return wide.view(*wide.shape[:2], n_blocks, width).transpose(1, 2)
