"""Families with layers that keep a state of a sequence: LFM2, Qwen 3-Next and 3.5."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.helpers.families.conversion import family_file, norms_plus_one, rope_keys, rotated, sizes
from tests.helpers.families.experts import NAMES, experts_file
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


QWEN_NAMES = NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.in_proj_qkvz": "attn_qkvz",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}
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


class _Named:
    """A torch model whose parameters of other names end as modules' do."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    def state_dict(self) -> dict[str, Tensor]:
        whole = self.model.state_dict().items()
        return {
            name.replace("A_log", "A_log.weight").replace("dt_bias", "dt_bias.bias"): weight for name, weight in whole
        }


def _qwen_change(config: Any, *, tiled: bool) -> Any:
    n_keys, n_values, dim = config.linear_num_key_heads, config.linear_num_value_heads, config.linear_key_head_dim
    n_qk = 2 * n_keys * dim

    def turned(weight: Tensor, size: int, axis: int = 0) -> Tensor:
        """Heads of values in the order in which keys' are repeated as a whole."""
        if not tiled:
            return weight
        return (
            weight.unflatten(axis, (n_keys, n_values // n_keys, size)).transpose(axis, axis + 1).flatten(axis, axis + 2)
        )

    def change(target: str, weight: Tensor) -> Tensor:
        kind = target.split(".", 2)[-1]
        if kind in ("attn_qkv.weight", "ssm_conv1d.weight"):
            weight = weight.squeeze(1)
            return torch.cat((weight[:n_qk], turned(weight[n_qk:], dim)))
        if kind == "attn_gate.weight":
            return turned(weight, dim)
        if kind in ("ssm_alpha.weight", "ssm_beta.weight", "ssm_dt.bias"):
            return turned(weight, 1)
        if kind == "ssm_a.weight":
            return turned(-weight.exp(), 1)
        if kind == "ssm_out.weight":
            return turned(weight, dim, 1)
        return weight if kind == "ssm_norm.weight" else norms_plus_one(target, weight)

    return change


def _qwen_keys(config: Any) -> dict[str, Any]:
    keys = sizes(config) | rope_keys(config) | rotated(config)
    if hasattr(config, "moe_intermediate_size"):
        keys["expert_feed_forward_length"] = config.moe_intermediate_size
        keys["expert_shared_feed_forward_length"] = config.shared_expert_intermediate_size
    return {
        "feed_forward_length": 112,
        **keys,
        "ssm.conv_kernel": config.linear_conv_kernel_dim,
        "ssm.state_size": config.linear_key_head_dim,
        "ssm.group_count": config.linear_num_key_heads,
        "ssm.time_step_rank": config.linear_num_value_heads,
        "ssm.inner_size": config.linear_value_head_dim * config.linear_num_value_heads,
        "attention.recurrent_layers": [kind == "linear_attention" for kind in config.layer_types],
    }


def _plain_a(file: ModelFile) -> ModelFile:
    """What has no `weight` behind its name; queries, keys, values and gates of a head apart."""
    tensors = {name.replace("ssm_a.weight", "ssm_a"): data for name, data in file.tensors.items()}
    return replace(file, tensors=tensors)


def _qwen_file(model: Any, arch: str) -> ModelFile:
    config = model.config
    keys = _qwen_keys(config)
    if arch != "qwen3next":
        keys["rope.dimension_sections"] = [2, 1, 1, 0]
    change = _qwen_change(config, tiled=arch != "qwen3next")
    named = _Apart(model) if arch == "qwen3next" else _Named(model)
    if arch == "qwen35":
        return _plain_a(family_file(named, arch, keys, QWEN_NAMES, change))
    return _plain_a(experts_file(named, arch, keys, QWEN_NAMES, change))


class _Apart(_Named):
    """Queries, keys, values and gates, which come key head by key head, as two matrices."""

    def state_dict(self) -> dict[str, Tensor]:
        config, found = self.config, {}
        n_keys, dim = config.linear_num_key_heads, config.linear_key_head_dim
        values = config.linear_num_value_heads // n_keys * dim
        for name, weight in super().state_dict().items():
            if "in_proj_qkvz" in name:
                *qkv, z = weight.unflatten(0, (n_keys, -1)).split((dim, dim, values, values), 1)
                found[name.replace("qkvz", "qkv")] = torch.cat([one.flatten(0, 1) for one in qkv])
                found[name.replace("qkvz", "z")] = z.flatten(0, 1)
            else:
                found[name] = weight
        return found


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


FAMILIES = {
    "lfm2": Family("lfm2", _lfm2, _lfm2_file),
    "lfm2moe": Family("lfm2moe", _lfm2moe, _lfm2moe_file),
    "qwen3next": Family("qwen3next", _qwen3next, partial(_qwen_file, arch="qwen3next"), norm_mean=0.0),
    "qwen35": Family("qwen35", _qwen35, partial(_qwen_file, arch="qwen35"), norm_mean=0.0),
    "qwen35moe": Family("qwen35moe", _qwen35moe, partial(_qwen_file, arch="qwen35moe"), norm_mean=0.0),
}
