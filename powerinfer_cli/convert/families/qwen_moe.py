"""Qwen's mixtures of experts, 2 and 3; OLMoE."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.names import EXPERTS, LLAMA

__all__ = ["CONVERSIONS", "width_keys"]


def _names(config: Config) -> Names:
    return {**LLAMA, **EXPERTS}


def width_keys(config: Config) -> KeyValues:
    """Of an expert, and of the one that all tokens share."""
    found: KeyValues = {}
    if "moe_intermediate_size" in config:
        found["expert_feed_forward_length"] = config.integer("moe_intermediate_size")
    if "shared_expert_intermediate_size" in config:
        found["expert_shared_feed_forward_length"] = config.integer("shared_expert_intermediate_size")
    return found


def _olmoe_keys(config: Config) -> KeyValues:
    """Its code knows one epsilon, whatever config.json says."""
    return {"attention.layer_norm_rms_epsilon": 1e-5}


DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0}
CONVERSIONS = (
    Conversion("qwen2moe", ("Qwen2MoeForCausalLM",), _names, width_keys, defaults=DEFAULTS),
    Conversion("qwen3moe", ("Qwen3MoeForCausalLM",), _names, width_keys, defaults=DEFAULTS),
    Conversion("olmoe", ("OlmoeForCausalLM",), _names, _olmoe_keys, defaults=DEFAULTS),
)
