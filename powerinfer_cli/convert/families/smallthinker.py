"""SmallThinker: experts and routers by names of its own."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.names import LLAMA

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    **LLAMA,
    "block_sparse_moe.primary_router": "ffn_gate_inp",
    "block_sparse_moe.experts.*.gate": "ffn_gate_exps",
    "block_sparse_moe.experts.*.up": "ffn_up_exps",
    "block_sparse_moe.experts.*.down": "ffn_down_exps",
}
SOFTMAX, SIGMOID = 1, 2


def _names(config: Config) -> Names:
    return NAMES


def _keys(config: Config) -> KeyValues:
    """A window where any layer has one."""
    width = config.integer("moe_ffn_hidden_size")
    keys: KeyValues = {
        "expert_count": config.integer("moe_num_primary_experts"),
        "expert_used_count": config.integer("moe_num_active_primary_experts"),
        "expert_feed_forward_length": width,
        "feed_forward_length": width,
        "expert_gating_func": SOFTMAX if config.get("moe_primary_router_apply_softmax") else SIGMOID,
    }
    layout = config.get("sliding_window_layout")
    if isinstance(layout, list) and any(layout) and config.get("sliding_window_size"):
        keys["attention.sliding_window"] = config.integer("sliding_window_size")
    return keys


CONVERSIONS = (
    Conversion(
        "smallthinker",
        ("SmallThinkerForCausalLM", "SmallthinkerForCausalLM"),
        _names,
        _keys,
        defaults={"rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    ),
)
