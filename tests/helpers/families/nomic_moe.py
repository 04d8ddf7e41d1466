"""Nomic Embed 2's mixture of experts in torch, by llama.cpp's graph: transformers has only the dense one."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NomicMoe", "NomicMoeConfig"]

OUTSIDE = {
    "token_embd.weight": "embeddings.word_embeddings.weight",
    "token_types.weight": "embeddings.token_type_embeddings.weight",
    "token_embd_norm.weight": "emb_ln.weight",
    "token_embd_norm.bias": "emb_ln.bias",
}
INSIDE = {
    "attn_output": "attn.out_proj",
    "attn_output_norm": "norm1",
    "layer_output_norm": "norm2",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
    "ffn_gate_inp": "mlp.router.layer",
}


@dataclass(frozen=True)
class NomicMoeConfig:
    """Every other layer, from the second on, has experts."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    layer_norm_eps: float = 1e-5
    n_experts: int = 4
    n_chosen: int = 2
    base: float = 1000.0
    tie_word_embeddings: bool = False


class Experts(nn.Module):
    """act(x up) down, each times its softmax among all, of the chosen."""

    def __init__(self, c: NomicMoeConfig) -> None:
        super().__init__()
        self.n_chosen, n, n_ff = c.n_chosen, c.hidden_size, c.intermediate_size
        self.ffn_gate_inp = nn.Linear(n, c.n_experts, bias=False)
        self.ffn_up_exps = nn.Parameter(torch.empty(c.n_experts, n_ff, n))
        self.ffn_down_exps = nn.Parameter(torch.empty(c.n_experts, n, n_ff))

    def forward(self, x: Tensor) -> Tensor:
        shares, chosen = self.ffn_gate_inp(x).softmax(-1).topk(self.n_chosen)
        made = torch.einsum("tkfn,tn->tkf", self.ffn_up_exps[chosen], x)
        return torch.einsum("tk,tkf,tknf->tn", shares, F.gelu(made), self.ffn_down_exps[chosen])


class Layer(nn.Module):
    """Named as our file names its parts."""

    def __init__(self, c: NomicMoeConfig, experts: bool) -> None:
        super().__init__()
        n, n_ff = c.hidden_size, c.intermediate_size
        self.c, self.attn_q, self.attn_k, self.attn_v, self.attn_output = c, *(nn.Linear(n, n) for _ in range(4))
        self.attn_output_norm, self.layer_output_norm = (nn.LayerNorm(n, c.layer_norm_eps) for _ in range(2))
        self.experts = Experts(c) if experts else None
        if not experts:
            self.ffn_up, self.ffn_down = nn.Linear(n, n_ff), nn.Linear(n_ff, n)

    def forward(self, x: Tensor) -> Tensor:
        """x [T, n]"""
        made = self.attn_output_norm(x + self._attention(x))
        ffn = self.experts(made) if self.experts is not None else self.ffn_down(F.gelu(self.ffn_up(made)))
        return self.layer_output_norm(made + ffn)

    def _attention(self, x: Tensor) -> Tensor:
        heads = self.c.num_attention_heads
        q, k, v = (one(x).unflatten(1, (heads, -1)).transpose(0, 1) for one in (self.attn_q, self.attn_k, self.attn_v))
        half = q.shape[-1] // 2
        angles = torch.arange(len(x))[:, None] * self.c.base ** (-torch.arange(half) / half)
        q, k = (self._turned(one, angles.cos(), angles.sin()) for one in (q, k))
        found = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return self.attn_output(found.transpose(0, 1).flatten(1))

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class NomicMoe(nn.Module):
    """Hidden states of ids [1, T], as transformers' models tell them."""

    def __init__(self, config: NomicMoeConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_types = nn.Embedding(1, config.hidden_size)
        self.token_embd_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.layers = nn.ModuleList(Layer(config, i % 2 == 1) for i in range(config.num_hidden_layers))

    def forward(self, ids: Tensor) -> SimpleNamespace:
        x = self.token_embd_norm(self.token_embd(ids[0]) + self.token_types.weight[0])
        for layer in self.layers:
            x = layer(x)
        return SimpleNamespace(last_hidden_state=x[None])

    def published(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As Nomic names them; q, k and v, and the experts, are one tensor each."""
        tensors = {OUTSIDE[name]: weight for name, weight in self.state_dict().items() if name in OUTSIDE}
        for i, layer in enumerate(self.layers):
            found = {name.removeprefix("experts."): weight for name, weight in layer.state_dict().items()}
            for end in ("weight", "bias"):
                qkv = [found.pop(f"attn_{part}.{end}") for part in "qkv"]
                found[f"attn.Wqkv.{end}"] = torch.cat(qkv)
            if layer.experts is not None:
                found["mlp.experts.mlp.w1"] = found.pop("ffn_up_exps").flatten(0, 1)
                found["mlp.experts.mlp.w2"] = found.pop("ffn_down_exps").transpose(1, 2).flatten(0, 1)
                found["mlp.experts.bias"] = torch.zeros(self.config.hidden_size)
            for name, weight in found.items():
                module, dot, end = name.rpartition(".")
                tensors[f"encoder.layers.{i}.{INSIDE.get(module, module)}{dot}{end}"] = weight
        return self._config(), tensors

    def _config(self) -> dict[str, Any]:
        c = self.config
        return {
            "architectures": ["NomicBertModel"],
            "activation_function": "gelu",
            "vocab_size": c.vocab_size,
            "n_embd": c.hidden_size,
            "n_inner": c.intermediate_size,
            "n_layer": c.num_hidden_layers,
            "n_head": c.num_attention_heads,
            "n_positions": c.max_position_embeddings,
            "layer_norm_epsilon": c.layer_norm_eps,
            "rotary_emb_base": c.base,
            "num_experts": c.n_experts,
            "moe_top_k": c.n_chosen,
            "moe_every_n_layers": 2,
        }
