"""DeepSeek 2 and 3, Kimi K2, GLM 4.7 Flash: the matrix from latents to heads is divided into keys', turned over, and
values'; layers that guess further tokens are left out, as llama.cpp leaves them out.
"""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Array, Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.families.names import EXPERTS, LLAMA, expert_keys

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    **LLAMA,
    **EXPERTS,
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
}


def _names(config: Config) -> Names:
    n_head = config.n_head
    keys, values = config.integer("qk_nope_head_dim"), config.integer("v_head_dim")

    def of_keys(rows: Array) -> Array:
        return rows.reshape(n_head, keys + values, -1)[:, :keys].swapaxes(1, 2)

    def of_values(rows: Array) -> Array:
        return rows.reshape(n_head, keys + values, -1)[:, keys:]

    return {**NAMES, "self_attn.kv_b_proj": (Part("attn_k_b", of_keys), Part("attn_v_b", of_values))}


def _keys(config: Config) -> KeyValues:
    """Attention is over the latents: one key head, as wide as they are."""
    rank, turned = config.integer("kv_lora_rank", default=512), config.integer("qk_rope_head_dim")
    plain = config.integer("qk_nope_head_dim")
    keys: KeyValues = {
        "attention.head_count_kv": 1,
        "vocab_size": config.integer("vocab_size"),
        "attention.q_lora_rank": config.integer("q_lora_rank") if "q_lora_rank" in config else None,
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + turned,
        "attention.value_length": rank,
        "attention.key_length_mla": plain + turned,
        "attention.value_length_mla": config.integer("v_head_dim"),
        "rope.dimension_count": turned,
        **expert_keys(config),
    }
    if not config.flag("norm_topk_prob"):
        keys["expert_weights_norm"] = None
    gain = config.rope.get("mscale_all_dim")
    if gain is not None:
        keys["rope.scaling.yarn_log_multiplier"] = 0.1 * Config(config.path, config.rope).number("mscale_all_dim")
    return keys


CONVERSIONS = (
    Conversion(
        "deepseek2",
        ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "KimiK2ForCausalLM", "Glm4MoeLiteForCausalLM"),
        _names,
        _keys,
        defaults={"rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    ),
)
