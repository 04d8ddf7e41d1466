"""Llama 4 (text): chunks of 16 positions, every fourth layer without rope, experts in all layers or in every other."""

from functools import partial
from typing import Any

from torch import Tensor

from tests.helpers.families.conversion import rope_keys, rotated, sizes
from tests.helpers.families.experts import NAMES, experts_file
from tests.helpers.families.family import SIZES, WINDOW, Family, rope
from tests.helpers.model_file import ModelFile

SCOUT_NAMES = NAMES | {
    "feed_forward.router": "ffn_gate_inp",
    "feed_forward.experts.gate_up_proj": "ffn_gate_up_exps",
    "feed_forward.experts.down_proj": "ffn_down_exps",
    **{f"feed_forward.shared_expert.{x}_proj": f"ffn_{x}_shexp" for x in ("gate", "up", "down")},
    **{f"feed_forward.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
}


def _llama4(**more: Any) -> Any:
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    given = {
        "num_hidden_layers": 5,
        "intermediate_size": 40,
        "intermediate_size_mlp": 112,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "head_dim": 24,
        "attention_chunk_size": WINDOW,
        "floor_scale": WINDOW,
        "attn_scale": 0.3,
    }
    config = Llama4TextConfig(**(SIZES | given | more), rope_parameters=rope(1000.0), attn_implementation="eager")
    return Llama4ForCausalLM(config)


def _change(target: str, weight: Tensor) -> Tensor:
    return weight.transpose(1, 2) if "_exps." in target else weight


def _file(model: Any) -> ModelFile:
    """Its rope turns neighbours in transformers as well: nothing is reordered. Files have no keys of 16, but 8192."""
    config = model.config
    keys = sizes(config) | rope_keys(config) | rotated(config) | {
        "feed_forward_length": config.intermediate_size_mlp,
        "expert_feed_forward_length": config.intermediate_size,
        "interleave_moe_layer_step": config.interleave_moe_layer_step,
    }  # fmt: skip
    if config.attention_chunk_size == WINDOW:
        keys |= {
            "attention.sliding_window": WINDOW,
            "attention.temperature_length": WINDOW,
            "attention.temperature_scale": config.attn_scale,
        }
    return experts_file(model, "llama4", keys, SCOUT_NAMES, _change, (6, 2))


CHUNKS = "its chunks are of 8192, whatever the file says"
AS_RELEASED = {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1, "num_hidden_layers": 4}
FAMILIES = {
    "llama4-released": Family("llama4", partial(_llama4, **AS_RELEASED), _file),
    "llama4": Family("llama4", _llama4, _file, peer_differs=CHUNKS),
    "llama4-interleaved": Family("llama4", partial(_llama4, interleave_moe_layer_step=2), _file, peer_differs=CHUNKS),
}
