"""Keys that all architectures' files have, of the numbers of config.json, as llama.cpp's converter writes them."""

from typing import Any

import numpy as np

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Floats, KeyValues

__all__ = ["general_keys", "llama3_divisors", "part_keys", "rope_keys"]

_COUNTS = {
    "context_length": (
        *("max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length", "model_max_length"),
    ),
    "embedding_length": ("hidden_size", "n_embd", "dim"),
    "feed_forward_length": (
        *("prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size", "n_inner", "hidden_dim"),
    ),
    "attention.head_count": ("num_attention_heads", "n_head", "n_heads"),
    "attention.head_count_kv": ("num_key_value_heads", "n_kv_heads"),
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
    "expert_group_count": ("n_group",),
    "expert_group_used_count": ("topk_group",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
}
_NUMBERS = {
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
}
_SCORES = (
    *("score_function", "scoring_func", "score_func", "moe_router_activation", "moe_router_activation_func"),
    "expert_selection_fn",
)
_GATINGS = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}


def general_keys(config: Config) -> KeyValues:
    """Raises PowerInferError: a number is missing, or none."""
    found: KeyValues = {"block_count": config.n_layer}
    for key, names in _COUNTS.items():
        value = config.first(*names)
        if isinstance(value, list):
            found[key] = config.items(next(name for name in names if name in config), int)
        elif value is not None:
            found[key] = config.integer(*names)
    found |= {key: float(config.number(*names)) for key, names in _NUMBERS.items() if config.first(*names) is not None}
    if config.get("is_causal") is False:
        found["attention.causal"] = False
    score = config.first(*_SCORES)
    if score is not None:
        if score not in _GATINGS:
            config.fail(f"experts are chosen by {str(score)[:40]!r}; known are {', '.join(_GATINGS)}")
        found["expert_gating_func"] = _GATINGS[score]
    return found | rope_keys(config)


def rope_keys(config: Config) -> KeyValues:
    """Base and scaling; of layers with a window too, where they have their own."""
    rope, kind = config.rope, config.rope.get("rope_type")
    found: KeyValues = {}
    if kind in ("linear", "yarn") and rope.get("factor") is not None:
        found |= {"rope.scaling.type": kind, "rope.scaling.factor": _number(config, rope, "factor")}
    if kind == "yarn" and "rope.scaling.factor" in found:
        found["rope.scaling.original_context_length"] = _count(config, rope, "original_max_position_embeddings")
        attention = "attention_factor" if "attention_factor" in rope else "attn_factor"
        for name, key in (
            ("extrapolation_factor", "yarn_ext_factor"),
            (attention, "yarn_attn_factor"),
            ("beta_fast", "yarn_beta_fast"),
            ("beta_slow", "yarn_beta_slow"),
        ):
            if rope.get(name) is not None:
                found[f"rope.scaling.{key}"] = _number(config, rope, name)
    if kind in ("su", "longrope"):
        found["rope.scaling.type"] = "longrope"
    sections = rope.get("mrope_section")
    if sections is not None:
        if not isinstance(sections, list) or not all(isinstance(n, int) and 0 <= n < 1 << 20 for n in sections):
            config.fail("mrope_section is no list of whole numbers")
        found["rope.dimension_sections"] = [*sections, 0, 0, 0, 0][:4]
    if rope.get("rope_theta") is not None:
        found["rope.freq_base"] = _number(config, rope, "rope_theta")
    if config.window_rope.get("rope_theta") is not None:
        found["rope.freq_base_swa"] = _number(config, config.window_rope, "rope_theta")
    return found


def _number(config: Config, rope: dict[str, Any], name: str) -> float:
    return float(Config(config.path, rope).number(name))


def _count(config: Config, rope: dict[str, Any], name: str) -> int:
    return Config(config.path, rope).integer(name)


def part_keys(config: Config) -> KeyValues:
    """How much of a head is turned."""
    return {"rope.dimension_count": int(config.part_turned * config.head_dim)}


def llama3_divisors(config: Config) -> Floats:
    """By what each pair's frequency is divided (Llama 3.1), [head_dim / 2]."""
    rope = Config(config.path, config.rope)
    base, dim = rope.number("rope_theta", default=10000.0), config.head_dim
    factor = rope.number("factor", default=8.0)
    slow, fast = rope.number("low_freq_factor", default=1.0), rope.number("high_freq_factor", default=4.0)
    turns = rope.number("original_max_position_embeddings", default=8192)
    if not factor or not slow < fast:
        config.fail("rope_parameters: factor is 0, or low_freq_factor is not below high_freq_factor")
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    slowness = (base ** exponents.astype(np.float64)).astype(np.float32)  # rounded once, as torch has it
    waves = np.float32(1) / (np.float32(1) / slowness) * np.float32(2 * np.pi)  # torch divides by multiplying
    smooth = (np.float32(1) / waves * np.float32(turns) - np.float32(slow)) / np.float32(fast - slow)
    between = 1 / ((1 - smooth) / np.float32(factor) + smooth)
    found = np.where(waves < turns / fast, 1, np.where(waves > turns / slow, factor, between))
    return found.astype(np.float32)
