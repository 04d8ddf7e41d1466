"""Families that transformers has no class for: its Llama or Granite, changed to what their published code computes."""

from copy import deepcopy
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.converter import head_size
from tests.helpers.families.conversion import family_file, neighbours, rope_keys, rotated, sizes
from tests.helpers.families.family import SIZES, Family, rope
from tests.helpers.model_file import ModelFile

LLAMA = "a twin of Llama"
LAYOUT = "Meta AI original pth"


def _llama(**more: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**(SIZES | {"rope_parameters": rope(1000.0)} | more)))


def _file(model: Any, arch: str, **more: Any) -> ModelFile:
    """As Llama's: rows of q and k reordered."""
    config = model.config
    keys = _sizes(config) | rope_keys(config) | rotated(config) | more
    return family_file(model, arch, keys, change=neighbours(config))


def _sizes(config: Any) -> dict[str, Any]:
    """The published configs have no size of a head."""
    return {key: value for key, value in sizes(config).items() if not key.endswith(("key_length", "value_length"))}


def _minicpm() -> Any:
    """Granite's scales are its own, but for the scores', which is Llama's."""
    from transformers import GraniteConfig, GraniteForCausalLM

    scales = {"embedding_multiplier": 3.0, "residual_multiplier": 0.6, "logits_scaling": 1.7}
    scores = {"attention_multiplier": 16**-0.5}
    return GraniteForCausalLM(GraniteConfig(**SIZES, **scales, **scores, rope_parameters=rope(1000.0)))


def _minicpm_file(model: Any) -> ModelFile:
    config = model.config
    scales = {
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier,
        "logit_scale": config.logits_scaling,
    }
    keys = _sizes(config) | rope_keys(config) | scales
    return family_file(model, "minicpm", keys, change=neighbours(config))


def _orion() -> Any:
    """LayerNorm with bias instead of RMS norm; its config's rms_norm_eps is LayerNorm's."""
    model = _llama(rope_parameters=rope(10000.0))
    for layer in model.model.layers:
        layer.input_layernorm, layer.post_attention_layernorm = nn.LayerNorm(64), nn.LayerNorm(64)
    model.model.norm = nn.LayerNorm(64)
    return model


def _orion_file(model: Any) -> ModelFile:
    """Its rope turns halves: nothing is reordered. The converter writes no base."""
    keys = _sizes(model.config) | {"tensor_data_layout": LAYOUT, "attention.layer_norm_epsilon": 1e-5}
    del keys["attention.layer_norm_rms_epsilon"]
    return family_file(model, "orion", keys)


def _plamo() -> Any:
    """Attention and FFN side by side, behind one norm."""
    model = _llama(rope_parameters=rope(10000.0))

    def forward(self: Any, hidden_states: Tensor, **more: Any) -> Tensor:
        x = self.input_layernorm(hidden_states)
        return hidden_states + self.self_attn(hidden_states=x, **more)[0] + self.mlp(x)

    for layer in model.model.layers:
        del layer.post_attention_layernorm
        layer.forward = MethodType(forward, layer)
    return model


def _plamo_file(model: Any) -> ModelFile:
    """As its converter would write other sizes than PLaMo 13B's: q heads of a k head together; rope turns halves."""
    return family_file(model, "plamo", _sizes(model.config))


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

    model = _llama(num_hidden_layers=6)
    layers, other = model.model.layers, deepcopy(model.config)
    layers[1].input_layernorm, layers[1].self_attn = nn.Identity(), _Nothing()
    layers[2].self_attn = _Linear()
    other.num_key_value_heads, other.intermediate_size = 1, 80
    layers[3].self_attn, layers[3].mlp = LlamaAttention(other, 3), LlamaMLP(other)
    layers[4] = _Same()
    return model


def _deci_file(model: Any) -> ModelFile:
    config = model.config
    lists = {
        "attention.head_count": [4, 0, 4, 4, 0, 4],
        "attention.head_count_kv": [2, 0, 0, 1, 0, 2],
        "feed_forward_length": [112, 112, 112, 80, 0, 112],
        "attention.key_length": head_size(config),
        "attention.value_length": head_size(config),
    }
    return _file(model, "deci", **lists)


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
    model = _llama(num_key_value_heads=4, num_hidden_layers=40)
    for layer in model.model.layers:
        layer.self_attn.forward = MethodType(_slopes, layer.self_attn)
    return model


_baichuan_file = partial(_file, arch="baichuan", tensor_data_layout=LAYOUT)

FAMILIES = {
    "minicpm": Family("minicpm", _minicpm, _minicpm_file, authority="Granite's twin"),
    "internlm2": Family("internlm2", _llama, partial(_file, arch="internlm2"), authority=LLAMA),
    "xverse": Family("xverse", _llama, partial(_file, arch="xverse", tensor_data_layout=LAYOUT), authority=LLAMA),
    "baichuan": Family(
        "baichuan", partial(_llama, num_key_value_heads=4), _baichuan_file, authority=LLAMA, peer_layers=32
    ),
    "orion": Family("orion", _orion, _orion_file, authority=LLAMA),
    "plamo": Family("plamo", _plamo, _plamo_file, authority=LLAMA),
    "deci": Family("deci", _deci, _deci_file, authority=LLAMA),
}
DEEP = {"baichuan-13b": Family("baichuan", _baichuan_13b, _baichuan_file, authority=LLAMA)}
