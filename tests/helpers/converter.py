"""A transformers model as a GGUF, by the conventions of llama.cpp's converter (its `conversion/` folder)."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.helpers.model_file import ModelFile

LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_FALCON_NAMES = {
    "transformer.word_embeddings": "token_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "ln_mlp": "attn_norm",
    "ln_attn": "attn_norm_2",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
_OPT_NAMES = {
    "model.decoder.embed_tokens": "token_embd",
    "model.decoder.embed_positions": "position_embd",
    "model.decoder.final_layer_norm": "output_norm",
    "lm_head": "output",
    "self_attn_layer_norm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "final_layer_norm": "ffn_norm",
    "fc1": "ffn_up",
    "fc2": "ffn_down",
}
_NAMES = {"falcon": _FALCON_NAMES, "opt": _OPT_NAMES}
_LAYER = re.compile(r"(?:.+\.)?(?:layers|h|blocks)\.(\d+)\.(.+)")


def convert(model: Any, arch: str) -> ModelFile:
    """`arch` is the GGUF's: a Mistral model becomes `llama`, or `bamboo`."""
    config = model.config
    tensors = stored(model, _NAMES.get(arch, LLAMA_NAMES), lambda target, w: _reordered(target, w, config, arch))
    if arch == "llama" and config.rope_parameters["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = llama3_divisors(config)
    return ModelFile(arch, {f"{arch}.{key}": value for key, value in _metadata(config, arch).items()}, tensors)


def stored(model: Any, names: dict[str, str], change: Callable[[str, Tensor], Tensor]) -> dict[str, np.ndarray]:
    """The file's tensors. names: a module's path, in a layer from there -> the file's; `change` gets the latter."""
    tensors: dict[str, np.ndarray] = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        stem, _, kind = name.rpartition(".")
        layer = _LAYER.fullmatch(stem)
        target = f"blk.{layer[1]}.{names[layer[2]]}" if layer else names[stem]
        target = f"{target}.{kind}"
        tensors[target] = change(target, weight).float().contiguous().numpy()
    return tensors


def _reordered(target: str, weight: Tensor, config: Any, arch: str) -> Tensor:
    if arch in ("llama", "bamboo") and ("attn_q." in target or "attn_k." in target):
        return interleaved(weight, config.head_dim)
    if "attn_qkv." in target:
        return _queries_keys_values(weight, config)
    return weight


def interleaved(weight: Tensor, head_dim: int) -> Tensor:
    """Rows i and i + head_dim/2 of a head become neighbours. weight [n_head * head_dim, ...]"""
    halves = weight.unflatten(0, (-1, 2, head_dim // 2))
    return halves.transpose(1, 2).reshape(weight.shape)


def _queries_keys_values(weight: Tensor, config: Any) -> Tensor:
    """Falcon groups each key-value head with its queries; llama.cpp wants all queries, all keys, all values."""
    n_head, n_kv = config.num_attention_heads, _falcon_kv_heads(config)
    groups = weight.unflatten(0, (n_kv, n_head // n_kv + 2, config.head_dim))
    return torch.cat([part.flatten(0, 2) for part in (groups[:, :-2], groups[:, -2:-1], groups[:, -1:])])


def _falcon_kv_heads(config: Any) -> int:
    return int(config.num_kv_heads) if config.new_decoder_architecture else 1


def head_size(config: Any) -> int:
    """Where a config has no head_dim, heads share the width."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def llama3_divisors(config: Any) -> np.ndarray:
    rope, head_dim = config.rope_parameters, head_size(config)
    turns = rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    divisors = []
    for pair in range(head_dim // 2):
        waves = turns / (2 * math.pi) * rope["rope_theta"] ** (-2 * pair / head_dim)
        smooth = min(1.0, max(0.0, (waves - low) / (high - low)))
        divisors.append(1 / (smooth + (1 - smooth) / factor))
    return np.array(divisors, np.float32)


def _metadata(config: Any, arch: str) -> dict[str, Any]:
    if arch == "falcon":
        return _falcon_metadata(config)
    shared = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
    }
    if arch == "opt":
        return shared | {
            "feed_forward_length": config.ffn_dim,
            "attention.layer_norm_epsilon": 1e-5,
        }
    metadata = shared | {
        "feed_forward_length": config.intermediate_size,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        **rope_metadata(config.rope_parameters),
    }
    head_dim = getattr(config, "head_dim", None)
    if arch in ("llama", "bamboo"):
        metadata |= {"vocab_size": config.vocab_size, "rope.dimension_count": head_dim}
    if head_dim is not None and head_dim * config.num_attention_heads != config.hidden_size:
        metadata |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    return metadata


def rope_metadata(rope: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"rope.freq_base": float(rope["rope_theta"])}
    if rope["rope_type"] not in ("linear", "yarn"):
        return metadata
    metadata |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    optional = {
        "original_max_position_embeddings": "rope.scaling.original_context_length",
        "attention_factor": "rope.scaling.yarn_attn_factor",
        "beta_fast": "rope.scaling.yarn_beta_fast",
        "beta_slow": "rope.scaling.yarn_beta_slow",
    }
    return metadata | {key: rope[name] for name, key in optional.items() if rope.get(name) is not None}


def _falcon_metadata(config: Any) -> dict[str, Any]:
    return {
        "context_length": 2048,
        "tensor_data_layout": "jploski",
        "embedding_length": config.hidden_size,
        "feed_forward_length": 4 * config.hidden_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": _falcon_kv_heads(config),
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
    }
