"""Families with layers that keep a state of a sequence: LFM2, Qwen 3-Next and 3.5."""

from typing import Any

from tests.helpers.families.family import ODD, SIZES, Family, rope

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


# Two heads of values for each of keys; no multiple of 16.
NET = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 24,
    "linear_value_head_dim": 24,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "full_attention_interval": 3,  # which converters read
    "head_dim": 32,
}
EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 72,
    "decoder_sparse_step": 1,
}
PARTLY = rope(1000.0, partial_rotary_factor=0.25)


def _qwen3next() -> Any:
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    return Qwen3NextForCausalLM(Qwen3NextConfig(**SIZES, **NET, **EXPERTS, rope_parameters=PARTLY))


def _qwen35() -> Any:
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SIZES, **NET, rope_parameters=_sections()))


def _qwen35moe() -> Any:
    from transformers import Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig

    given = {key: value for key, value in EXPERTS.items() if key != "decoder_sparse_step"}
    return Qwen3_5MoeForCausalLM(Qwen3_5MoeTextConfig(**SIZES, **NET, **given, rope_parameters=_sections()))


def _sections() -> dict[str, Any]:
    return PARTLY | {"mrope_section": [2, 1, 1], "mrope_interleaved": True}


FAMILIES = {
    "lfm2": Family("lfm2", _lfm2),
    "lfm2moe": Family("lfm2moe", _lfm2moe),
    "qwen3next": Family("qwen3next", _qwen3next, norm_mean=0.0),
    "qwen35": Family("qwen35", _qwen35, norm_mean=0.0),
    "qwen35moe": Family("qwen35moe", _qwen35moe, norm_mean=0.0),
}
