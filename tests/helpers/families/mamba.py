"""Families with Mamba-2 layers: alone (Mamba-2), beside attention (Falcon-H1), between it (Granite 4 H, Nemotron-H)."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.helpers.families.conversion import family_file, neighbours, rope_keys, sizes
from tests.helpers.families.experts import NAMES, experts_file
from tests.helpers.families.family import ODD, Family, rope
from tests.helpers.families.llama_like import granite_scales
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import N_VOCAB

N_GROUPS, STATE_DIM = 2, 20  # no multiple of 16 anywhere
PARTS = {
    "in_proj": "ssm_in",
    "conv1d": "ssm_conv1d",
    "dt_bias": "ssm_dt",
    "A_log": "ssm_a",
    "D": "ssm_d",
    "norm": "ssm_norm",
    "out_proj": "ssm_out",
}
MAMBA = {f"mamba.{name}": target for name, target in PARTS.items()}
GRANITE_NAMES = (
    NAMES
    | MAMBA
    | {
        "block_sparse_moe.router": "ffn_gate_inp",
        "block_sparse_moe.experts.gate_up_proj": "ffn_gate_up_exps",
        "block_sparse_moe.experts.down_proj": "ffn_down_exps",
        "shared_mlp.gate": "ffn_gate",
        "shared_mlp.up": "ffn_up",
        "shared_mlp.output_linear": "ffn_down",
    }
)
SHARED = {
    "shared_mlp.gate": "ffn_gate_shexp",
    "shared_mlp.up": "ffn_up_shexp",
    "shared_mlp.output_linear": "ffn_down_shexp",
}
FALCON_NAMES = (
    NAMES
    | MAMBA
    | {"pre_ff_layernorm": "ffn_norm", "model.final_layernorm": "output_norm"}
    | {f"feed_forward.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")}
)
MAMBA2_NAMES = {
    "backbone.embeddings": "token_embd",
    "backbone.norm_f": "output_norm",
    "lm_head": "output",
    "norm": "attn_norm",
    **{f"mixer.{name}": target for name, target in PARTS.items()},
}
NEMOTRON_NAMES = MAMBA2_NAMES | {
    "model.embeddings": "token_embd",
    "model.norm_f": "output_norm",
    **{f"mixer.{x}_proj": f"attn_{x}" for x in "qkv"},
    "mixer.o_proj": "attn_output",
    "mixer.up_proj": "ffn_up",
    "mixer.down_proj": "ffn_down",
    "mixer.gate": "ffn_gate_inp",
    "mixer.exp_probs_b": "exp_probs_b",
    "mixer.experts.up_proj": "ffn_up_exps",
    "mixer.experts.down_proj": "ffn_down_exps",
    "mixer.shared_experts.up_proj": "ffn_up_shexp",
    "mixer.shared_experts.down_proj": "ffn_down_shexp",
}


class _Named:
    """A torch model whose parameters of other names end as modules' do; a shared expert's gate and up apart."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    def state_dict(self) -> dict[str, Tensor]:
        found = {}
        for name, weight in self.model.state_dict().items():
            if name.endswith("shared_mlp.input_linear.weight"):
                gate, up = weight.chunk(2)
                found[name.replace("input_linear", "gate")], found[name.replace("input_linear", "up")] = gate, up
            elif name.endswith("gate.e_score_correction_bias"):
                found[f"{name.partition('gate.e_')[0]}exp_probs_b.bias"] = weight
            elif name.endswith((".A_log", ".D")):
                found[f"{name}.weight"] = weight
            else:
                found[f"{name}.bias" if name.endswith(".dt_bias") else name] = weight
        return found


def _changed(target: str, weight: Tensor) -> Tensor:
    kind = target.split(".", 2)[-1]
    if kind in ("ssm_a.weight", "ssm_d.weight"):
        return (-weight.exp() if kind == "ssm_a.weight" else weight).unsqueeze(1)
    if kind == "ssm_norm.weight":
        return weight.view(N_GROUPS, -1)
    return weight.squeeze(1) if kind == "ssm_conv1d.weight" else weight


def _turned(config: Any, target: str, weight: Tensor) -> Tensor:
    return _changed(target, neighbours(config)(target, weight))


def _plain(file: ModelFile) -> ModelFile:
    """What has no `weight` behind its name."""
    bare = ["ssm_a", "ssm_d", *(["ffn_norm"] if file.arch == "falcon-h1" else [])]
    names = {f"blk.{i}.{name}.weight": f"blk.{i}.{name}" for i in range(file.n_layer) for name in bare}
    return replace(file, tensors={names.get(name, name): data for name, data in file.tensors.items()})


def _keys(heads: int, inner: int) -> dict[str, int]:
    return {
        "ssm.conv_kernel": 4,
        "ssm.state_size": STATE_DIM,
        "ssm.group_count": N_GROUPS,
        "ssm.time_step_rank": heads,
        "ssm.inner_size": inner,
    }


SSM = {"mamba_n_heads": 6, "mamba_n_groups": N_GROUPS, "mamba_d_state": STATE_DIM, "mamba_chunk_size": 16}


def _granite(n_experts: int) -> Any:
    from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM

    scales = {
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "logits_scaling": 1.7,
        "shared_intermediate_size": 56 if n_experts else 100,
    }
    kinds = ["linear_attention", "full_attention", "linear_attention", "linear_attention"]
    experts = {"num_local_experts": n_experts, "num_experts_per_tok": 2, "intermediate_size": 40 if n_experts else 100}
    config = GraniteMoeHybridConfig(**(ODD | SSM | scales | experts), layer_types=kinds)
    return GraniteMoeHybridForCausalLM(config)


def _granite_file(model: Any) -> ModelFile:
    config = model.config
    heads = [config.num_key_value_heads if kind == "full_attention" else 0 for kind in config.layer_types]
    keys = sizes(config) | granite_scales(config) | _keys(config.mamba_n_heads, 2 * config.hidden_size)
    keys |= {"attention.head_count_kv": heads, "rope.scaling.finetuned": False, "rope.dimension_count": 12}
    if not config.num_local_experts:
        return _plain(family_file(_Named(model), "granitehybrid", keys, GRANITE_NAMES, partial(_turned, config)))
    keys["expert_shared_feed_forward_length"] = config.shared_intermediate_size
    named, names = _Named(model), GRANITE_NAMES | SHARED
    return _plain(
        experts_file(named, "granitehybrid", keys, names, partial(_turned, config), (config.num_local_experts, 2))
    )


def _mamba2() -> Any:
    from transformers import Mamba2Config, Mamba2ForCausalLM

    given = {"num_heads": 6, "head_dim": 24, "state_size": STATE_DIM, "n_groups": N_GROUPS, "chunk_size": 16}
    return Mamba2ForCausalLM(Mamba2Config(vocab_size=N_VOCAB, hidden_size=72, num_hidden_layers=3, **given))


def _mamba2_file(model: Any) -> ModelFile:
    config = model.config
    keys = {
        "vocab_size": config.vocab_size,
        "context_length": 1 << 20,
        "embedding_length": config.hidden_size,
        "feed_forward_length": 0,
        "block_count": config.num_hidden_layers,
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon,
        **_keys(config.num_heads, 2 * config.hidden_size),
    }
    return _plain(family_file(_Named(model), "mamba2", keys, MAMBA2_NAMES, _changed))


def _falcon(**more: Any) -> Any:
    from transformers import FalconH1Config, FalconH1ForCausalLM

    scales = {
        "mamba_d_ssm": 120,
        "embedding_multiplier": 1.5,
        "lm_head_multiplier": 0.8,
        "key_multiplier": 0.7,
        "attention_in_multiplier": 0.9,
        "attention_out_multiplier": 1.1,
        "ssm_in_multiplier": 1.2,
        "ssm_out_multiplier": 0.85,
        "ssm_multipliers": [0.8, 1.3, 0.9, 1.1, 0.7],
        "mlp_multipliers": [1.2, 0.75],
    }
    given = ODD | SSM | scales | {"head_dim": 24, "mamba_norm_before_gate": False} | more
    return FalconH1ForCausalLM(FalconH1Config(**given, rope_parameters=rope(1000.0)))


def _falcon_file(model: Any) -> ModelFile:
    config = model.config
    keys = sizes(config) | rope_keys(config) | _keys(config.mamba_n_heads, config.mamba_d_ssm)
    file = family_file(_Named(model), "falcon-h1", keys, FALCON_NAMES, partial(_multiplied, config))
    return _plain(file)


def _multiplied(config: Any, target: str, weight: Tensor) -> Tensor:
    """The model's multipliers are in the file's weights."""
    kind = target.split(".", 2)[-1].removesuffix(".weight")
    inner, between = config.mamba_d_ssm, N_GROUPS * STATE_DIM
    parts = (inner, inner, between, between, config.mamba_n_heads)
    by_row = torch.cat([torch.full((n,), m) for n, m in zip(parts, config.ssm_multipliers, strict=True)])
    into = config.attention_in_multiplier
    factors: dict[str, Any] = {
        "token_embd": config.embedding_multiplier,
        "output": config.lm_head_multiplier,
        "attn_q": into,
        "attn_k": into * config.key_multiplier,
        "attn_v": into,
        "attn_output": config.attention_out_multiplier,
        "ssm_in": config.ssm_in_multiplier * by_row.unsqueeze(1),
        "ssm_out": config.ssm_out_multiplier,
        "ffn_gate": config.mlp_multipliers[0],
        "ffn_down": config.mlp_multipliers[1],
    }
    return _changed(target, weight) * factors.get(kind if target.startswith("blk.") else target.partition(".")[0], 1)


def _nemotron(kinds: list[str]) -> Any:
    from transformers import NemotronHConfig, NemotronHForCausalLM

    given = {
        "mamba_num_heads": 6,
        "mamba_head_dim": 20,
        "ssm_state_size": STATE_DIM,
        "n_groups": N_GROUPS,
        "chunk_size": 16,
        "head_dim": 24,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 40,
        "moe_shared_expert_intermediate_size": 56,
        "routed_scaling_factor": 2.5,
    }
    sizes_ = {key: value for key, value in ODD.items() if key != "num_hidden_layers"}
    model = NemotronHForCausalLM(NemotronHConfig(**sizes_, **given, layers_block_type=kinds))
    for layer in model.model.layers:
        if layer.block_type == "moe":
            layer.mixer.gate.e_score_correction_bias.normal_(std=0.2)
    return model


def _nemotron_file(model: Any, arch: str) -> ModelFile:
    config = model.config
    kinds, moe = config.layers_block_type, arch == "nemotron_h_moe"
    width = config.moe_intermediate_size if moe else config.intermediate_size
    keys = sizes(config) | _keys(config.mamba_num_heads, config.mamba_num_heads * config.mamba_head_dim)
    keys |= {
        "attention.head_count_kv": [config.num_key_value_heads if kind == "full_attention" else 0 for kind in kinds],
        "feed_forward_length": [width if kind in ("mlp", "moe") else 0 for kind in kinds],
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        "rope.scaling.finetuned": False,
    }
    if not moe:
        return _plain(family_file(_Named(model), arch, keys, NEMOTRON_NAMES, _changed))
    keys |= {
        "expert_feed_forward_length": width,
        "expert_shared_feed_forward_length": config.moe_shared_expert_intermediate_size,
        "expert_shared_count": config.n_shared_experts,
        "expert_weights_norm": config.norm_topk_prob,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_group_count": config.n_group,
    }
    return _plain(experts_file(_Named(model), arch, keys, NEMOTRON_NAMES, _changed, (8, 3)))


LAYERS = ["linear_attention", "mlp", "full_attention", "linear_attention", "linear_attention", "mlp"]
WITH_EXPERTS = ["moe" if kind == "mlp" else kind for kind in LAYERS]
FAMILIES = {
    "mamba2": Family("mamba2", _mamba2, _mamba2_file),
    "granitehybrid": Family("granitehybrid", partial(_granite, 0), _granite_file),
    "granitehybrid-experts": Family("granitehybrid", partial(_granite, 6), _granite_file),
    "falcon-h1": Family("falcon-h1", _falcon, _falcon_file),
    "falcon-h1-normed": Family("falcon-h1", partial(_falcon, mamba_rms_norm=True), _falcon_file),
    "nemotron_h": Family("nemotron_h", partial(_nemotron, LAYERS), partial(_nemotron_file, arch="nemotron_h")),
    "nemotron_h_moe": Family(
        "nemotron_h_moe", partial(_nemotron, WITH_EXPERTS), partial(_nemotron_file, arch="nemotron_h_moe")
    ),
}
