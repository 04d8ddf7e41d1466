"""Families that transformers has no class for: its Llama or Granite, changed to what their published code computes, and
named as their checkpoints are.
"""

from copy import deepcopy
from functools import partial, reduce
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.checkpoints import published
from tests.helpers.families.family import SIZES, Family, rope

LLAMA = "a twin of Llama"


def _llama(**more: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**(SIZES | {"rope_parameters": rope(1000.0)} | more)))


def _minicpm() -> Any:
    """Granite's scales are its own, but for the scores', which is Llama's."""
    from transformers import GraniteConfig, GraniteForCausalLM

    scales = {"embedding_multiplier": 3.0, "residual_multiplier": 0.6, "logits_scaling": 2.0}
    scores = {"attention_multiplier": 16**-0.5}
    model = GraniteForCausalLM(GraniteConfig(**SIZES, **scales, **scores, rope_parameters=rope(1000.0)))
    own = {"scale_emb": 3.0, "scale_depth": 0.6 * SIZES["num_hidden_layers"] ** 0.5, "dim_model_base": 32}
    return published(model, "MiniCPMForCausalLM", **own)


def _internlm2() -> Any:
    """Each key head's queries, its key and its value lie together."""
    model = _llama()
    renamed = {
        "embed_tokens": "tok_embeddings",
        "lm_head": "output",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3",
    }

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = [one.unflatten(0, (model.config.num_key_value_heads, -1)) for one in (q, k, v)]
        return torch.cat(groups, 1).flatten(0, 1)

    return _published(model, "InternLM2ForCausalLM", renamed, "attention.wqkv", fused)


def _baichuan(**more: Any) -> Any:
    """Queries, keys and values in one matrix."""
    model = _llama(num_key_value_heads=4, **more)
    return _published(model, "BaichuanForCausalLM", {}, "self_attn.W_pack", lambda *qkv: torch.cat(qkv))


def _published(model: Any, name: str, renamed: dict[str, str], path: str, fused: Any) -> Any:
    """With other names, and q, k and v in one matrix."""

    def told() -> tuple[dict[str, Any], dict[str, Tensor]]:
        state, tensors = model.state_dict(), {}
        for key, weight in state.items():
            front, q, _ = key.partition("self_attn.q_proj.weight")
            if q:
                qkv = [state[f"{front}self_attn.{x}_proj.weight"] for x in "qkv"]
                tensors[f"{front}{path}.weight"] = fused(*qkv)
            elif not key.endswith(("k_proj.weight", "v_proj.weight")):
                tensors[reduce(lambda word, pair: word.replace(*pair), renamed.items(), key)] = weight
        return model.config.to_dict() | {"architectures": [name]}, tensors

    model.published = told
    return model


def _orion() -> Any:
    """LayerNorm with bias instead of RMS norm; its config's rms_norm_eps is LayerNorm's."""
    model = _llama(rope_parameters=rope(10000.0))
    for layer in model.model.layers:
        layer.input_layernorm, layer.post_attention_layernorm = nn.LayerNorm(64), nn.LayerNorm(64)
    model.model.norm = nn.LayerNorm(64)
    return published(model, "OrionForCausalLM", rms_norm_eps=1e-5)


def _plamo() -> Any:
    """Attention and FFN side by side, behind one norm."""
    model = _llama(rope_parameters=rope(10000.0))

    def forward(self: Any, hidden_states: Tensor, **more: Any) -> Tensor:
        x = self.input_layernorm(hidden_states)
        return hidden_states + self.self_attn(hidden_states=x, **more)[0] + self.mlp(x)

    for layer in model.model.layers:
        del layer.post_attention_layernorm
        layer.forward = MethodType(forward, layer)
    model.published = partial(_as_plamo, model)
    return model


def _as_plamo(model: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Query heads of a key head are apart: those that are the first of theirs, then the second."""
    heads = (model.config.num_key_value_heads, 2, model.config.head_dim)
    tensors = {}
    for name, weight in model.state_dict().items():
        changed = weight
        if "q_proj" in name:
            changed = weight.unflatten(0, heads).transpose(0, 1).flatten(0, 2)
        elif "o_proj" in name:
            changed = weight.unflatten(1, heads).transpose(1, 2).flatten(1, 3)
        tensors[name.replace("layers.", "layers.layers.").replace("input_layernorm", "norm")] = changed
    own = {"architectures": ["PlamoForCausalLM"], "n_shared_head": 2}
    return model.config.to_dict() | own, tensors


class _Linear(nn.Module):
    """What is left of attention that was found to need no other tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.o_proj = nn.Linear(64, 64, bias=False)

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        return self.o_proj(hidden_states), None


class _Nothing(nn.Module):
    """A part of a layer that is not there."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Any:
        return torch.zeros_like(hidden_states), None


class _Same(nn.Module):
    """A layer of nothing."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        return hidden_states


def _deci() -> Any:
    """Llama-Nemotron's search leaves attention out, or a matrix of it, or whole layers; FFNs are of any width."""
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP

    model = _llama(num_hidden_layers=6, intermediate_size=256)
    layers, other = model.model.layers, deepcopy(model.config)
    layers[1].input_layernorm, layers[1].self_attn = nn.Identity(), _Nothing()
    layers[2].self_attn = _Linear()
    other.num_key_value_heads, other.intermediate_size = 1, 512
    layers[3].self_attn, layers[3].mlp = LlamaAttention(other, 3), LlamaMLP(other)
    layers[4] = _Same()
    model.published = partial(_as_deci, model)
    return model


def _as_deci(model: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is left of each layer: query heads of a key head, or a matrix; the FFN's width, in parts of the layer's."""
    shared, widths = (2, None, None, 4, None, 2), (6.0, 6.0, 6.0, 12.0, None, 6.0)
    blocks = [
        {"attention": {"n_heads_in_group": n, "replace_with_linear": i == 2}, "ffn": {"ffn_mult": width}}
        for i, (n, width) in enumerate(zip(shared, widths, strict=True))
    ]
    own = {"architectures": ["DeciLMForCausalLM"], "block_configs": blocks}
    linear = "layers.2.self_attn.o_proj", "layers.2.self_attn.linear_attn"
    return model.config.to_dict() | own, {name.replace(*linear): w for name, w in model.state_dict().items()}


def _slopes(self: Any, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
    """Attention with slopes of scores by distance instead of rope."""
    made = (proj(hidden_states) for proj in (self.q_proj, self.k_proj, self.v_proj))
    q, k, v = (x.unflatten(-1, (4, -1)).transpose(1, 2) for x in made)
    at = torch.arange(hidden_states.shape[1])
    slopes = 2.0 ** -torch.tensor([2.0, 4.0, 6.0, 8.0])
    future = torch.where(at > at[:, None], -torch.inf, 0.0)
    bias = slopes[:, None, None] * (at - at[:, None]) + future
    out = nn.functional.scaled_dot_product_attention(q, k, v, bias[None])
    return self.o_proj(out.transpose(1, 2).flatten(2)), None


def _baichuan_13b() -> Any:
    model = _baichuan(num_hidden_layers=40)
    for layer in model.model.layers:
        layer.self_attn.forward = MethodType(_slopes, layer.self_attn)
    return model


FAMILIES = {
    "minicpm": Family("minicpm", _minicpm, authority="Granite's twin"),
    "internlm2": Family("internlm2", _internlm2, authority=LLAMA),
    "xverse": Family("xverse", lambda: published(_llama(num_key_value_heads=4), "XverseForCausalLM"), authority=LLAMA),
    "baichuan": Family("baichuan", _baichuan, authority=LLAMA, peer_layers=32),
    "orion": Family("orion", _orion, authority=LLAMA),
    "plamo": Family("plamo", _plamo, authority=LLAMA),
    "deci": Family("deci", _deci, authority=LLAMA),
}
DEEP = {"baichuan-13b": Family("baichuan", _baichuan_13b, authority=LLAMA)}
