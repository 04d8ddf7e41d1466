"""Jina BERT 2 in torch, by its paper (Günther et al. 2023) and llama.cpp's graph: transformers has it not."""

from dataclasses import asdict, dataclass
from functools import reduce
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["JinaBert", "JinaConfig"]


NAMES = {
    "token_embd_norm": "embeddings.LayerNorm",
    "token_embd": "embeddings.word_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "layers.": "encoder.layer.",
    "attn_q_norm": "attention.self.layer_norm_q",
    "attn_k_norm": "attention.self.layer_norm_k",
    "attn_output_norm": "attention.output.LayerNorm",
    "attn_norm_2": "layer_norm_1",
    "layer_output_norm": "layer_norm_2",
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "ffn_up": "mlp.up_gated_layer",
    "ffn_down": "mlp.down_layer",
}


@dataclass(frozen=True)
class JinaConfig:
    """code: q and k are normed over their whole width, and the layer's input is added twice."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    layer_norm_eps: float = 1e-12
    code: bool = False
    tie_word_embeddings: bool = False


class Layer(nn.Module):
    """Named as the file names its parts."""

    def __init__(self, c: JinaConfig) -> None:
        super().__init__()
        n, n_ff = c.hidden_size, c.intermediate_size
        self.c, self.attn_q, self.attn_k, self.attn_v, self.attn_output = c, *(nn.Linear(n, n) for _ in range(4))
        norms = ["attn_output_norm", "layer_output_norm"] + ["attn_q_norm", "attn_k_norm", "attn_norm_2"] * c.code
        for name in norms:
            self.add_module(name, nn.LayerNorm(n, c.layer_norm_eps))
        self.ffn_up, self.ffn_down = nn.Linear(n, 2 * n_ff, bias=False), nn.Linear(n_ff, n)

    def forward(self, x: Tensor) -> Tensor:
        """x [T, n]"""
        made = self.attn_output_norm(x + self._attention(x))
        if self.c.code:
            made = self.attn_norm_2(made + x)
        gate, up = self.ffn_up(made).chunk(2, -1)
        return self.layer_output_norm(made + self.ffn_down(F.gelu(gate) * up))

    def _attention(self, x: Tensor) -> Tensor:
        q, k, v = self.attn_q(x), self.attn_k(x), self.attn_v(x)
        if self.c.code:
            q, k = self.attn_q_norm(q), self.attn_k_norm(k)
        heads = self.c.num_attention_heads  # a power of two: the h-th head's slope is 2 ** -(8 h / heads)
        q, k, v = (one.unflatten(1, (heads, -1)).transpose(0, 1) for one in (q, k, v))
        places = torch.arange(len(x))
        slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
        scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
        scores = scores - slopes.view(-1, 1, 1) * (places[:, None] - places).abs()
        return self.attn_output((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))


class JinaBert(nn.Module):
    """Hidden states of ids [1, T], as transformers' models tell them."""

    def __init__(self, config: JinaConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_types = nn.Embedding(2, config.hidden_size)
        self.token_embd_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def published(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As Jina's own code names its parts."""
        state = self.state_dict()
        names = {name: reduce(lambda path, pair: path.replace(*pair), NAMES.items(), name) for name in state}
        tensors = {names[name]: weight for name, weight in state.items()}
        return asdict(self.config) | {"architectures": ["JinaBertModel"]}, tensors

    def forward(self, ids: Tensor) -> SimpleNamespace:
        x = self.token_embd_norm(self.token_embd(ids[0]) + self.token_types.weight[0])
        for layer in self.layers:
            x = layer(x)
        return SimpleNamespace(last_hidden_state=x[None])
