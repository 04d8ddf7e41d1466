"""Llama 4 (text): chunks of 16 positions, every fourth layer without rope, experts in all layers or in every other."""

from functools import partial
from typing import Any

from tests.helpers.checkpoints import converted
from tests.helpers.families.family import SIZES, WINDOW, Family, rope
from tests.helpers.model_file import ModelFile


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


def _short(model: Any) -> ModelFile:
    """Files have no keys of other chunks than 8192."""
    return converted(model).with_metadata(
        attention__sliding_window=WINDOW,
        attention__temperature_length=WINDOW,
        attention__temperature_scale=model.config.attn_scale,
    )


CHUNKS = "its chunks are of 8192, whatever the file says"
AS_RELEASED = {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1, "num_hidden_layers": 4}
FAMILIES = {
    "llama4-released": Family("llama4", partial(_llama4, **AS_RELEASED)),
    "llama4": Family("llama4", _llama4, _short, peer_differs=CHUNKS),
    "llama4-interleaved": Family("llama4", partial(_llama4, interleave_moe_layer_step=2), _short, peer_differs=CHUNKS),
}
