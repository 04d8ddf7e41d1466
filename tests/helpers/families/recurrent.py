"""Families with layers that keep a state of a sequence: LFM2."""

from typing import Any

from torch import Tensor

from tests.helpers.families.conversion import family_file, rope_keys, sizes
from tests.helpers.families.experts import experts_file
from tests.helpers.families.family import ODD, SIZES, Family, rope
from tests.helpers.model_file import ModelFile

LFM2_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.embedding_norm": "token_embd_norm",
    "operator_norm": "attn_norm",
    "conv.conv": "shortconv.conv",
    "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "feed_forward.gate": "ffn_gate_inp",
    "feed_forward.exp_probs_b": "exp_probs_b",
    "feed_forward.experts.gate_up_proj": "ffn_gate_up_exps",
    "feed_forward.experts.down_proj": "ffn_down_exps",
}
KINDS = ["conv", "full_attention", "conv", "conv"]


def _lfm2() -> Any:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    kinds = {"layer_types": KINDS, "conv_L_cache": 4, "block_auto_adjust_ff_dim": False}
    return Lfm2ForCausalLM(Lfm2Config(**ODD, **kinds, rope_parameters=rope(1000.0)))


def _lfm2moe() -> Any:
    from transformers import Lfm2MoeConfig, Lfm2MoeForCausalLM

    experts = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "num_dense_layers": 1}
    config = Lfm2MoeConfig(**SIZES, **experts, layer_types=KINDS, rope_parameters=rope(1000.0))
    model = Lfm2MoeForCausalLM(config)
    for layer in model.model.layers[1:]:
        layer.feed_forward.expert_bias.normal_(std=0.2)
    return model


def _keys(config: Any) -> dict[str, Any]:
    heads = [config.num_key_value_heads if kind == "full_attention" else 0 for kind in config.layer_types]
    return sizes(config) | {
        "attention.head_count_kv": heads,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "shortconv.l_cache": config.conv_L_cache,
        **rope_keys(config),
    }


def _flat(target: str, weight: Tensor) -> Tensor:
    """Convolutions are of one channel each."""
    return weight.squeeze(1) if "conv.conv" in target or "conv1d" in target else weight


def _lfm2_file(model: Any) -> ModelFile:
    return family_file(model, "lfm2", _keys(model.config), LFM2_NAMES, _flat)


def _lfm2moe_file(model: Any) -> ModelFile:
    config = model.config
    keys = _keys(config) | {
        "expert_feed_forward_length": config.moe_intermediate_size,
        "leading_dense_block_count": config.num_dense_layers,
        "expert_gating_func": 2,
    }
    return experts_file(model, "lfm2moe", keys, LFM2_NAMES, _flat)


FAMILIES = {"lfm2": Family("lfm2", _lfm2, _lfm2_file), "lfm2moe": Family("lfm2moe", _lfm2moe, _lfm2moe_file)}
