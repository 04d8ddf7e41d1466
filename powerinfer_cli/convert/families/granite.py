"""Granite, also with experts or Mamba-2, and MiniCPM: llama's names, and scales of many things."""

import math

import numpy as np

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, Floats, KeyValues, Names
from powerinfer_cli.convert.families.mamba import WHOLE, mamba_names
from powerinfer_cli.convert.families.names import head_keys, turned_heads
from powerinfer_cli.convert.moves import gate_and_up

__all__ = ["CONVERSIONS"]

EXPERTS: Names = {
    "block_sparse_moe.router.layer": "ffn_gate_inp",
    "block_sparse_moe.input_linear": gate_and_up("ffn_{}_exps"),
    "block_sparse_moe.output_linear": "ffn_down_exps",
}


def _granite(config: Config) -> Names:
    return turned_heads(config)


def _granitemoe(config: Config) -> Names:
    """What all tokens share is the whole FFN where there are no experts."""
    mixed = config.integer("num_local_experts", default=0) > 0
    shared: Names = {
        "shared_mlp.input_linear": gate_and_up("ffn_{}_shexp" if mixed else "ffn_{}"),
        "shared_mlp.output_linear": "ffn_down_shexp" if mixed else "ffn_down",
    }
    return {**turned_heads(config), **EXPERTS, **shared}


def _granite_keys(config: Config) -> KeyValues:
    """Heads share the width."""
    scales = {
        "attention.scale": "attention_multiplier",
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    }
    written = {key: float(config.number(name)) for key, name in scales.items() if config.get(name)}
    sizes: KeyValues = {
        "attention.key_length": None,
        "attention.value_length": None,
        "rope.dimension_count": config.n_embd // config.n_head,
    }
    return head_keys(config) | sizes | written


def _granitemoe_keys(config: Config) -> KeyValues:
    shared = config.integer("shared_intermediate_size", default=0)
    return _granite_keys(config) | {"expert_shared_feed_forward_length": shared or None}


def _hybrid(config: Config) -> Names:
    return {**_granitemoe(config), **mamba_names("mamba", config.integer("mamba_n_groups"))}


def _attends(config: Config) -> list[bool]:
    """By layer."""
    n = config.n_layer
    if "layer_types" in config:
        return [kind in ("attention", "full_attention") for kind in config.items("layer_types", str, n)]
    if "attn_layer_indices" in config:
        chosen = config.items("attn_layer_indices", int)
        return [i in chosen for i in range(n)]
    period, offset = config.integer("attn_layer_period"), config.integer("attn_layer_offset")
    return [i % max(1, period) == offset for i in range(n)]


def _hybrid_keys(config: Config) -> KeyValues:
    """Without rope and without an end of the context, but for Bamba's."""
    turned = "BambaForCausalLM" in config.classes
    return _granitemoe_keys(config) | {
        "ssm.conv_kernel": config.integer("mamba_d_conv", default=4),
        "ssm.state_size": config.integer("mamba_d_state"),
        "ssm.group_count": config.integer("mamba_n_groups"),
        "ssm.inner_size": config.integer("mamba_expand", default=2) * config.n_embd,
        "ssm.time_step_rank": config.integer("mamba_n_heads"),
        "attention.head_count_kv": [config.n_head_kv if attends else 0 for attends in _attends(config)],
        "rope.scaling.finetuned": turned,
        **({} if turned else {"context_length": WHOLE}),
    }


def _mamba_too(config: Config) -> bool:
    return not all(_attends(config))


def _experts(config: Config) -> bool:
    return config.integer("num_local_experts", default=0) > 0


def _minicpm_keys(config: Config) -> KeyValues:
    return {
        "embedding_scale": float(config.number("scale_emb")),
        "residual_scale": config.number("scale_depth") / math.sqrt(config.n_layer),
        "logit_scale": config.n_embd / max(1, config.integer("dim_model_base")),
    }


def _minicpm_factors(config: Config) -> dict[str, Floats]:
    """Of long contexts, where there are any."""
    rope = Config(config.path, config.rope)
    names = {"rope_factors_long.weight": "long_factor", "rope_factors_short.weight": "short_factor"}
    if not any(name in rope for name in names.values()):
        return {}
    half = config.head_dim // 2
    return {target: np.array(rope.numbers(name, half), np.float32) for target, name in names.items()}


DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0}
HYBRID = ("GraniteMoeHybridForCausalLM", "BambaForCausalLM")
CONVERSIONS = (
    Conversion("granite", ("GraniteForCausalLM",), _granite, _granite_keys, defaults=DEFAULTS),
    Conversion(
        "granitemoe",
        ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
        _granitemoe,
        _granitemoe_keys,
        defaults=DEFAULTS,
    ),
    Conversion("granitehybrid", HYBRID, _hybrid, _hybrid_keys, fits=_mamba_too, defaults=DEFAULTS),
    Conversion("granitemoe", HYBRID, _granitemoe, _granitemoe_keys, fits=_experts, defaults=DEFAULTS),
    Conversion("granite", HYBRID, _granitemoe, _granite_keys, defaults=DEFAULTS),
    Conversion("minicpm", ("MiniCPMForCausalLM",), _granite, _minicpm_keys, _minicpm_factors, defaults=DEFAULTS),
)
