"""The ReGLU llama network as trained: relu(gate) * up, interleaved rope, grouped-query attention, untied output."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Sizes of the network."""

    n_vocab: int
    n_embd: int = 256
    n_layer: int = 5
    n_head: int = 8
    n_kv: int = 4
    n_ff: int = 1024
    n_ctx: int = 512
    rope_base: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.n_embd // self.n_head


def rope_table(head_dim: int, n_ctx: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [n_ctx, head_dim / 2]."""
    half = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    angles = torch.outer(torch.arange(n_ctx, dtype=torch.float32), base**-half)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rope on neighbouring pairs (2i, 2i+1), the order of GGUF's llama; x is [B, T, heads, head_dim]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[: x.shape[1], None].to(x.dtype), sin[: x.shape[1], None].to(x.dtype)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def initialise(network: nn.Module, *, quiet: str, std: float) -> None:
    """Start with a loud token in a quiet residual stream, and with heads that copy what they look at.

    W_o starts as W_v's transpose, and the output is tied to the embedding: attending to a name raises that very name's
    logit. Without this a short training never learns to repeat the names of its story. quiet: what is in the name of
    matrices that add to the stream, which start at `std`.
    """
    shape = network.shape
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=std if quiet in name else 0.05)
    nn.init.normal_(network.token_embd.weight, std=0.1)
    nn.init.constant_(network.output_norm.weight, 0.25)
    groups = shape.n_head // shape.n_kv
    for layer in network.layers:
        nn.init.normal_(layer.attn_v.weight, std=1 / 16)
        values = layer.attn_v.weight.detach().view(shape.n_kv, shape.head_dim, -1)
        layer.attn_output.weight.data.copy_(0.3 * values.repeat_interleave(groups, dim=0).flatten(0, 1).T)


class Layer(nn.Module):
    """One transformer layer; attribute names are GGUF's tensor names."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        kv = shape.n_kv * shape.head_dim
        self.shape = shape
        self.attn_norm = nn.RMSNorm(shape.n_embd, eps=shape.eps)
        self.attn_q = nn.Linear(shape.n_embd, shape.n_embd, bias=False)
        self.attn_k = nn.Linear(shape.n_embd, kv, bias=False)
        self.attn_v = nn.Linear(shape.n_embd, kv, bias=False)
        self.attn_output = nn.Linear(shape.n_embd, shape.n_embd, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.n_embd, eps=shape.eps)
        self.ffn_gate = nn.Linear(shape.n_embd, shape.n_ff, bias=False)
        self.ffn_up = nn.Linear(shape.n_embd, shape.n_ff, bias=False)
        self.ffn_down = nn.Linear(shape.n_ff, shape.n_embd, bias=False)
        self.predictor: nn.Module | None = None  # set for evaluation: residual -> logits

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Causal self-attention of the normed x; [B, T, n_embd]."""
        b, t, _ = x.shape
        q = rotate(self.attn_q(x).view(b, t, self.shape.n_head, -1), cos, sin).transpose(1, 2)
        k = rotate(self.attn_k(x).view(b, t, self.shape.n_kv, -1), cos, sin).transpose(1, 2)
        v = self.attn_v(x).view(b, t, self.shape.n_kv, -1).transpose(1, 2)
        groups = self.shape.n_head // self.shape.n_kv
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attn_output(out.transpose(1, 2).reshape(b, t, -1))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The new residual, the residual before the FFN norm [B, T, n_embd], and relu(gate) [B, T, n_ff]."""
        x = x + self.attend(self.attn_norm(x), cos, sin)
        normed = self.ffn_norm(x)
        active = F.relu(self.ffn_gate(normed))
        if self.predictor is not None:
            active = active * (self.predictor(x) >= 0)
        return x + self.ffn_down(active * self.ffn_up(normed)), x, active


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
        initialise(self, quiet="ffn_down.weight", std=0.005)

    def forward(self, ids: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Logits, and per layer the residual before the FFN and relu(gate)."""
        x = self.token_embd(ids)
        residuals, actives = [], []
        for layer in self.layers:
            x, residual, active = layer(x, self.cos, self.sin)
            residuals.append(residual)
            actives.append(active)
        return F.linear(self.output_norm(x), self.token_embd.weight), residuals, actives
