"""Tiny random models of each architecture from `transformers`, with weights large enough that logits are of order 1."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.helpers.checkpoints import converted, published
from tests.helpers.model_file import ModelFile

N_VOCAB = 96
PROMPT = [int(i) for i in np.random.default_rng(7).integers(0, N_VOCAB, 23)]

_SIZES = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}


def _llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**(_SIZES | changes)))


def _mistral(**changes: Any) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**(_SIZES | {"sliding_window": None} | changes)))


def _qwen2(**changes: Any) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**(_SIZES | changes)))


def _qwen3(**changes: Any) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**(_SIZES | {"head_dim": 32} | changes)))


def _falcon(**changes: Any) -> Any:
    from transformers import FalconConfig, FalconForCausalLM

    sizes = {k: v for k, v in _SIZES.items() if k not in ("intermediate_size", "num_key_value_heads")}
    return FalconForCausalLM(FalconConfig(**(sizes | changes)))


def _opt(**changes: Any) -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {k: v for k, v in _SIZES.items() if k not in ("intermediate_size", "num_key_value_heads")}
    return OPTForCausalLM(OPTConfig(**(sizes | {"ffn_dim": 112} | changes)))


def _bamboo(**changes: Any) -> Any:
    """Mistral whose up projection passes through ReLU as well as the gate (transformers has no such class)."""
    model = _mistral(**changes)

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.down_proj(torch.relu(self.gate_proj(x)) * torch.relu(self.up_proj(x)))

    for layer in model.model.layers:
        layer.mlp.forward = MethodType(forward, layer.mlp)
    return published(model, "BambooForCausalLM")


_EMBEDDING = re.compile("emb|wte|wpe")
_FALCON_40B = {"new_decoder_architecture": True, "num_kv_heads": 2}

CASES: dict[str, tuple[str, Callable[[], Any]]] = {
    "llama": ("llama", lambda: _llama(rope_parameters={"rope_type": "default", "rope_theta": 1000.0})),
    "llama-all-kv-heads": ("llama", lambda: _llama(num_key_value_heads=4, tie_word_embeddings=True)),
    "llama-linear": (
        "llama",
        lambda: _llama(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}),
    ),
    "llama-llama3": ("llama", lambda: _llama(rope_parameters=dict(_LLAMA3))),
    "llama-yarn": ("llama", lambda: _llama(rope_parameters=dict(_YARN))),
    "llama-yarn-tuned": (
        "llama",
        lambda: _llama(rope_parameters=_YARN | {"attention_factor": 1.25, "beta_fast": 6.0, "beta_slow": 0.5}),
    ),
    "llama-wide-heads": ("llama", lambda: _llama(head_dim=24)),
    "llama-biases": ("llama", lambda: _llama(attention_bias=True, mlp_bias=True)),
    "llama-relu": ("llama", lambda: _llama(hidden_act="relu")),
    "mistral": ("llama", lambda: _mistral(rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
    "qwen2": ("qwen2", _qwen2),
    "qwen2-yarn": ("qwen2", lambda: _qwen2(rope_parameters=dict(_YARN), tie_word_embeddings=True)),
    "qwen3": ("qwen3", _qwen3),
    "falcon-7b": ("falcon", _falcon),
    "falcon-7b-relu": ("falcon", lambda: _falcon(activation="relu", tie_word_embeddings=False)),
    "falcon-40b": ("falcon", lambda: _falcon(**_FALCON_40B)),
    "falcon-40b-relu": ("falcon", lambda: _falcon(activation="relu", **_FALCON_40B)),
    "opt": ("opt", _opt),
    "bamboo": ("bamboo", _bamboo),
}
RELU_CASES = ("llama-relu", "falcon-7b-relu", "falcon-40b-relu", "opt", "bamboo")


@dataclass(frozen=True)
class TinyModel:
    """One case: the transformers model, and its conversion."""

    name: str
    torch_model: Any
    file: ModelFile

    @cached_property
    def reference(self) -> np.ndarray:
        """transformers' logits [len(PROMPT), N_VOCAB]: row t follows token t."""
        return reference_logits(self.torch_model, PROMPT)


@torch.no_grad()
def reference_logits(model: Any, ids: list[int]) -> np.ndarray:
    logits: np.ndarray = model(torch.tensor([ids])).logits[0].numpy()
    return logits


@cache
def tiny_model(name: str) -> TinyModel:
    _, build = CASES[name]
    torch.manual_seed(list(CASES).index(name))
    model = build().float().eval()
    randomise(model)
    return TinyModel(name, model, converted(model))


@torch.no_grad()
def randomise(model: Any, norm_mean: float = 1.0, embedding: float = 0.5) -> None:
    """Activations of order 1 in every layer, and no norm or bias that a wrong engine could leave out unnoticed."""
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.normal_(std=0.3)
        elif weight.ndim > 1 and "norm" not in name:
            weight.normal_(std=embedding if _EMBEDDING.search(name) else weight.shape[-1] ** -0.5)
        else:
            weight.normal_(mean=norm_mean, std=0.3)
