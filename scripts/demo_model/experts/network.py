"""qwen3moe's network as trained: heads with norms, rope by halves, SiLU experts chosen by a softmax, tied output."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.demo_model.network import initialise, rope_table

_ROOM = 64


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; `n_ff` is an expert's."""

    n_vocab: int
    n_embd: int = 192
    n_layer: int = 4
    n_head: int = 6
    n_kv: int = 3
    n_ff: int = 128
    n_experts: int = 16
    n_chosen: int = 2
    n_ctx: int = 512
    rope_base: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.n_embd // self.n_head


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rope on halves (i, i + head_dim / 2), the order of GGUF's qwen3moe; x is [B, T, heads, head_dim]."""
    low, high = x.chunk(2, dim=-1)
    cos, sin = cos[: x.shape[1], None].to(x.dtype), sin[: x.shape[1], None].to(x.dtype)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class Mixture(nn.Module):
    """A router and its experts. Each expert's matrices are parameters of their own, as Muon wants them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.router = nn.Linear(shape.n_embd, shape.n_experts, bias=False)
        inward, outward = (shape.n_ff, shape.n_embd), (shape.n_embd, shape.n_ff)
        self.gate, self.up, self.down = (
            nn.ParameterList(torch.empty(size) for _ in range(shape.n_experts)) for size in (inward, inward, outward)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums [n, n_embd] of the normed x [n, n_embd], the router's shares [n, E], and who was chosen [n, k]."""
        with torch.autocast(x.device.type, enabled=False):
            shares = F.linear(x.float(), self.router.weight).softmax(dim=-1)
        weights, chosen = shares.topk(self.shape.n_chosen, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        experts, pairs = self.shape.n_experts, chosen.flatten()
        order = pairs.argsort(stable=True)  # pairs of a token and an expert, by expert
        counts = torch.bincount(pairs, minlength=experts)
        room = -int(counts.max()) // _ROOM * -_ROOM  # of each expert: few different shapes, few kernels made for them
        starts = counts.cumsum(0) - counts
        place = pairs[order] * room + torch.arange(len(order), device=x.device) - starts[pairs[order]]
        tokens = order // self.shape.n_chosen
        own = x.new_zeros(experts * room, x.shape[1]).index_copy(0, place, x[tokens]).view(experts, room, -1)
        hidden = F.silu(own @ _stacked(self.gate).mT) * (own @ _stacked(self.up).mT)
        found = (hidden @ _stacked(self.down).mT).flatten(0, 1)[place]
        found = found * weights.flatten()[order, None].to(found.dtype)
        return torch.zeros_like(x).index_add(0, tokens, found.to(x.dtype)), shares, chosen


def _stacked(matrices: nn.ParameterList) -> Tensor:
    return torch.stack(list(matrices))


class Layer(nn.Module):
    """One layer; attribute names are GGUF's tensor names."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        kv = shape.n_kv * shape.head_dim
        self.shape = shape
        self.attn_norm = nn.RMSNorm(shape.n_embd, eps=shape.eps)
        self.attn_q = nn.Linear(shape.n_embd, shape.n_embd, bias=False)
        self.attn_k = nn.Linear(shape.n_embd, kv, bias=False)
        self.attn_v = nn.Linear(shape.n_embd, kv, bias=False)
        self.attn_q_norm = nn.RMSNorm(shape.head_dim, eps=shape.eps)
        self.attn_k_norm = nn.RMSNorm(shape.head_dim, eps=shape.eps)
        self.attn_output = nn.Linear(shape.n_embd, shape.n_embd, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.n_embd, eps=shape.eps)
        self.mixture = Mixture(shape)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Causal self-attention of the normed x; [B, T, n_embd]."""
        b, t, _ = x.shape
        q = self.attn_q_norm(self.attn_q(x).float().view(b, t, self.shape.n_head, -1))
        k = self.attn_k_norm(self.attn_k(x).float().view(b, t, self.shape.n_kv, -1))
        v = self.attn_v(x).float().view(b, t, self.shape.n_kv, -1).transpose(1, 2)
        q, k = rotate(q, cos, sin).transpose(1, 2), rotate(k, cos, sin).transpose(1, 2)
        groups = self.shape.n_head // self.shape.n_kv
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        with torch.autocast(x.device.type, enabled=False):  # float32 has the faster gradient on a CPU
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attn_output(out.transpose(1, 2).reshape(b, t, -1))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The new residual [B, T, n_embd], the router's shares [B, T, E], and who was chosen [B, T, k]."""
        x = x + self.attend(self.attn_norm(x), cos, sin)
        added, shares, chosen = self.mixture(self.ffn_norm(x).flatten(0, 1))
        return x + added.view_as(x), shares.unflatten(0, x.shape[:2]), chosen.unflatten(0, x.shape[:2])


class Network(nn.Module):
    """Ids [B, T] to logits [B, T, n_vocab]."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.n_vocab, shape.n_embd)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.n_layer))
        self.output_norm = nn.RMSNorm(shape.n_embd, eps=shape.eps)
        cos, sin = rope_table(shape.head_dim, shape.n_ctx, shape.rope_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        initialise(self, quiet=".down.", std=0.01)

    def forward(self, ids: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Logits, and per layer the router's shares and who was chosen."""
        x = self.token_embd(ids)
        shares, chosen = [], []
        for layer in self.layers:
            x, share, choice = layer(x, self.cos, self.sin)
            shares.append(share)
            chosen.append(choice)
        return F.linear(self.output_norm(x), self.token_embd.weight), shares, chosen
