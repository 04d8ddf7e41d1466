"""Families with Mamba-2 layers: alone (Mamba-2), beside attention (Falcon-H1), between it (Granite 4 H, Nemotron-H)."""

from functools import partial
from typing import Any

from tests.helpers.families.family import ODD, Family, rope
from tests.helpers.tiny_models import N_VOCAB

N_GROUPS, STATE_DIM = 2, 20  # no multiple of 16 anywhere


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


def _mamba2() -> Any:
    from transformers import Mamba2Config, Mamba2ForCausalLM

    given = {"num_heads": 6, "head_dim": 24, "state_size": STATE_DIM, "n_groups": N_GROUPS, "chunk_size": 16}
    return Mamba2ForCausalLM(Mamba2Config(vocab_size=N_VOCAB, hidden_size=72, num_hidden_layers=3, **given))


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


def _nemotron(kinds: list[str], **more: Any) -> Any:
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
    model = NemotronHForCausalLM(NemotronHConfig(**sizes_, **given, **more, layers_block_type=kinds))
    for layer in model.model.layers:
        if layer.block_type == "moe":
            layer.mixer.gate.e_score_correction_bias.normal_(std=0.2)
    return model


LAYERS = ["linear_attention", "mlp", "full_attention", "linear_attention", "linear_attention", "mlp"]
WITH_EXPERTS = ["moe" if kind == "mlp" else kind for kind in LAYERS]
FAMILIES = {
    "mamba2": Family("mamba2", _mamba2),
    "granitehybrid": Family("granitehybrid", partial(_granite, 0)),
    "granitehybrid-experts": Family("granitehybrid", partial(_granite, 6)),
    "falcon-h1": Family("falcon-h1", _falcon),
    "falcon-h1-normed": Family("falcon-h1", partial(_falcon, mamba_rms_norm=True)),
    "nemotron_h": Family("nemotron_h", partial(_nemotron, LAYERS)),
    "nemotron_h_moe": Family("nemotron_h_moe", partial(_nemotron, WITH_EXPERTS)),
    "nemotron_h_moe-latents": Family("nemotron_h_moe", partial(_nemotron, WITH_EXPERTS, moe_latent_size=44)),
}
