"""Phi 1, 1.5 and 2; Phi 3 and 4, whose matrices are fused as the file has them, and factors stretch their rope."""

import math

import numpy as np

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, Floats, KeyValues, Names
from powerinfer_cli.convert.families.names import LLAMA

__all__ = ["CONVERSIONS", "long_factors", "phi3_keys"]

PHI2: Names = {
    **LLAMA,
    "model.final_layernorm": "output_norm",
    "self_attn.dense": "attn_output",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
PHI3: Names = {**LLAMA, "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}


def _phi2(config: Config) -> Names:
    return PHI2


def _phi3(config: Config) -> Names:
    return PHI3


def _turned(config: Config) -> int:
    return int(config.part_turned * config.n_embd) // config.n_head


def _phi2_keys(config: Config) -> KeyValues:
    return {
        "block_count": config.n_layer,
        "context_length": config.integer("n_positions", "max_position_embeddings"),
        "embedding_length": config.n_embd,
        "feed_forward_length": 4 * config.n_embd,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.n_head,
        "attention.layer_norm_epsilon": config.number("layer_norm_epsilon", "layer_norm_eps"),
        "rope.dimension_count": _turned(config),
        "/tokenizer.ggml.add_bos_token": False,
    }


def phi3_keys(config: Config) -> KeyValues:
    """Phi 4 has a window of 0."""
    n_ctx, original = config.integer("n_positions", "max_position_embeddings"), _original(config)
    return {
        "block_count": config.n_layer,
        "context_length": n_ctx,
        "rope.scaling.original_context_length": original,
        "embedding_length": config.n_embd,
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.n_head_kv,
        "attention.layer_norm_rms_epsilon": config.number("rms_norm_eps"),
        "rope.dimension_count": _turned(config),
        "rope.freq_base": float(Config(config.path, config.rope).number("rope_theta")),
        "attention.sliding_window": config.integer("sliding_window", default=0),
        "rope.scaling.attn_factor": _gain(config, n_ctx, original),
    }


def _original(config: Config) -> int:
    rope = Config(config.path, config.rope)
    return rope.integer("original_max_position_embeddings", default=config.integer("max_position_embeddings"))


def _gain(config: Config, n_ctx: int, original: int) -> float | None:
    """By what scores grow with the context, where it is stretched."""
    rope, kind = config.rope, str(config.rope.get("rope_type")).lower()
    if not rope.get("long_factor"):
        return None
    stretch = n_ctx / max(1, original)
    if kind in ("su", "longrope"):
        return math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 and original > 1 else 1.0
    if kind == "yarn":
        return 0.1 * math.log(stretch) + 1.0 if stretch > 1 else 1.0
    return config.fail(f"rope_scaling: type {kind[:40]!r} with long_factor is not known")


def long_factors(config: Config) -> dict[str, Floats]:
    """By what each pair's frequency is divided, in long and in short contexts."""
    rope = Config(config.path, config.rope)
    if not rope.get("long_factor"):
        return {}
    return {
        f"rope_factors_{length}.weight": np.array(rope.numbers(f"{length}_factor", _turned(config) // 2), np.float32)
        for length in ("long", "short")
    }


CONVERSIONS = (
    Conversion(
        "phi2",
        ("PhiForCausalLM",),
        _phi2,
        _phi2_keys,
        general=False,
        defaults={"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5},
    ),
    Conversion(
        "phi3",
        ("Phi3ForCausalLM",),
        _phi3,
        phi3_keys,
        long_factors,
        general=False,
        defaults={"rms_norm_eps": 1e-5, "rope_theta": 10000.0},
    ),
)
