"""Experts beside shared ones: dots.llm1, Ling, ERNIE 4.5, Hunyuan."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.families.names import EXPERTS, GUESSING, LLAMA, expert_keys, head_keys
from powerinfer_cli.convert.families.qwen import HUNYUAN, hunyuan_rope
from powerinfer_cli.convert.keys import part_keys
from powerinfer_cli.convert.moves import both, neighbours, rows_between

__all__ = ["CONVERSIONS"]

MIXED: Names = {**LLAMA, **EXPERTS}
LING: Names = {
    **MIXED,
    "model.word_embeddings": "token_embd",
    "attention.dense": "attn_output",
    "attention.query_layernorm": "attn_q_norm",
    "attention.key_layernorm": "attn_k_norm",
    "mlp.gate.expert_bias": "exp_probs_b.bias",
}
LING2: Names = {
    **LING,
    **GUESSING,
    "attention.query_key_value": "attn_qkv",
    "final_layernorm": "nextn.shared_head_norm",
}
ERNIE: Names = {**MIXED, "mlp.moe_statics.e_score_correction_bias": Part("exp_probs_b.bias")}
HUNYUAN_MOE: Names = {
    **MIXED,
    **HUNYUAN,
    "mlp.gate.wg": "ffn_gate_inp",
    **{f"mlp.shared_mlp.{x}_proj": f"ffn_{x}_shexp" for x in ("gate", "up", "down")},
}


def _dots1(config: Config) -> Names:
    return MIXED


def _ling(config: Config) -> Names:
    """Queries, then keys, then values in one matrix. An output by normed columns is kept as it is: only its norm_head
    is refused.
    """
    size, turned = config.head_dim, neighbours(config.head_dim)
    n_q, n_kv = config.n_head * size, config.n_head_kv * size
    parts = (
        Part("attn_q", both(rows_between(0, n_q), turned)),
        Part("attn_k", both(rows_between(n_q, n_q + n_kv), turned)),
        Part("attn_v", rows_between(n_q + n_kv, n_q + 2 * n_kv)),
    )
    return {**LING, "attention.query_key_value": parts}


def _ling2(config: Config) -> Names:
    return LING2


def _ernie(config: Config) -> Names:
    """Its own rope turns neighbours as well: nothing is reordered."""
    return ERNIE


def _without_ernie(config: Config, name: str) -> str:
    return name.replace("ernie.", "model.")


def _hunyuan(config: Config) -> Names:
    return HUNYUAN_MOE


def _ling_keys(config: Config) -> KeyValues:
    if config.flag("norm_head"):
        config.fail("norm_head is true: such models are not supported")
    return head_keys(config) | expert_keys(config) | {"expert_weights_scale": 1.0}


def _ling2_keys(config: Config) -> KeyValues:
    guessing = config.integer("guessing_layers")
    width = config.integer("moe_intermediate_size") * config.integer("num_shared_experts", default=0)
    return {
        "block_count": config.n_layer + guessing,
        "vocab_size": config.integer("vocab_size"),
        **part_keys(config),
        **expert_keys(config),
        "expert_shared_feed_forward_length": config.integer("moe_shared_expert_intermediate_size", default=width),
        "nextn_predict_layers": guessing if guessing or config.get("num_nextn_predict_layers") == 0 else None,
    }


def _ernie_keys(config: Config) -> KeyValues:
    shared = config.integer("moe_num_shared_experts", default=0)
    width = config.integer("intermediate_size") // max(1, config.n_head_kv)
    return {
        "expert_count": config.integer("moe_num_experts"),
        "expert_used_count": config.integer("moe_k"),
        "interleave_moe_layer_step": config.integer("moe_layer_interval", default=1),
        "leading_dense_block_count": config.integer("moe_layer_start_index"),
        "expert_feed_forward_length": config.integer("moe_intermediate_size"),
        "expert_shared_count": shared,
        "expert_shared_feed_forward_length": width if shared else None,
    }


def _same(config: Config, name: str, default: int) -> int:
    """A number that may be said of each layer by itself, alike."""
    found = config.get(name, default)
    numbers = found if isinstance(found, list) else [found]
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) or n != numbers[0] for n in numbers):
        config.fail(f"{name}: layers that differ are not supported")
    return int(numbers[0])


def _hunyuan_keys(config: Config) -> KeyValues:
    width = config.integer("intermediate_size")
    return hunyuan_rope(config, 1000.0) | {
        "expert_shared_feed_forward_length": width,
        "expert_feed_forward_length": _same(config, "moe_intermediate_size", width),
        "expert_used_count": _same(config, "moe_topk", 1),
        "expert_shared_count": _same(config, "num_shared_expert", 1),
    }


DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0}
CONVERSIONS = (
    Conversion("dots1", ("Dots1ForCausalLM",), _dots1, expert_keys, defaults=DEFAULTS),
    Conversion("bailingmoe", ("BailingMoeForCausalLM",), _ling, _ling_keys, defaults=DEFAULTS),
    Conversion(
        "bailingmoe2",
        ("BailingMoeV2ForCausalLM",),
        _ling2,
        _ling2_keys,
        guessing=True,
        defaults={**DEFAULTS, "partial_rotary_factor": 0.5},
    ),
    Conversion(
        "ernie4_5-moe",
        ("Ernie4_5_MoeForCausalLM",),
        _ernie,
        _ernie_keys,
        renamed=_without_ernie,
        skipped=r"model\.mtp_.*",
        defaults={"rms_norm_eps": 1e-5, "rope_theta": 500000.0},
    ),
    Conversion("hunyuan-moe", ("HunYuanMoEV1ForCausalLM",), _hunyuan, _hunyuan_keys, defaults={"rms_norm_eps": 1e-5}),
)
