"""Llama 4 (text): its rope turns neighbours in its own code as well; experts' matrices are turned over."""

from functools import partial

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Array, Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.families.names import LLAMA, head_keys
from powerinfer_cli.convert.moves import turned_over

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    **LLAMA,
    "feed_forward.router": "ffn_gate_inp",
    "feed_forward.experts.down_proj": Part("ffn_down_exps.weight", turned_over),
    **{f"feed_forward.shared_expert.{x}_proj": f"ffn_{x}_shexp" for x in ("gate", "up", "down")},
    **{f"feed_forward.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
}


def _columns(array: Array, begin: int, end: int) -> Array:
    return turned_over(array[..., begin:end])


def _names(config: Config) -> Names:
    """[experts, n_embd, 2 ff], gates before ups."""
    ff = config.integer("intermediate_size")
    parts = {"gate": (0, ff), "up": (ff, 2 * ff)}
    return {
        **NAMES,
        "feed_forward.experts.gate_up_proj": tuple(
            Part(f"ffn_{name}_exps.weight", partial(_columns, begin=begin, end=end))
            for name, (begin, end) in parts.items()
        ),
    }


def _keys(config: Config) -> KeyValues:
    """Chunks of 8192, of which there is no key, unless no layer has any."""
    whole = "layer_types" in config and set(config.items("layer_types", str)) <= {"full_attention"}
    return head_keys(config) | {
        "feed_forward_length": config.integer("intermediate_size_mlp"),
        "expert_feed_forward_length": config.integer("intermediate_size"),
        "interleave_moe_layer_step": config.integer("interleave_moe_layer_step"),
        "attention.sliding_window": 0 if whole else None,
    }


CONVERSIONS = (
    Conversion(
        "llama4",
        ("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
        _names,
        _keys,
        defaults={
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "head_dim": 128,
            "intermediate_size_mlp": 16384,
            "interleave_moe_layer_step": 1,
            "num_experts_per_tok": 1,
        },
    ),
)
