"""Phi 3.5 MoE: Mixtral's names, Phi 3's keys."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.names import EXPERTS, LLAMA
from powerinfer_cli.convert.families.phi import long_factors, phi3_keys

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    **LLAMA,
    **EXPERTS,
    "mlp.router": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.experts.*.w1": "ffn_gate_exps",
    "block_sparse_moe.experts.*.w2": "ffn_down_exps",
    "block_sparse_moe.experts.*.w3": "ffn_up_exps",
}


def _names(config: Config) -> Names:
    return NAMES


def _keys(config: Config) -> KeyValues:
    return phi3_keys(config) | {
        "expert_count": config.integer("num_local_experts", "num_experts"),
        "expert_used_count": config.integer("num_experts_per_tok", "num_experts_per_token"),
    }


CONVERSIONS = (
    Conversion(
        "phimoe",
        ("PhimoeForCausalLM", "PhiMoEForCausalLM"),
        _names,
        _keys,
        long_factors,
        general=False,
        defaults={"rms_norm_eps": 1e-5, "rope_theta": 1000000.0},
    ),
)
