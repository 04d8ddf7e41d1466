"""Phi: a parallel block with LayerNorm (2); fused matrices and long rope (3, 4)."""

import math
from typing import Any

import numpy as np

from tests.helpers.converter import LLAMA_NAMES
from tests.helpers.families.conversion import family_file, rotated, sizes
from tests.helpers.families.family import SIZES, WINDOW, Family, rope
from tests.helpers.model_file import ModelFile

LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0],
    "partial_rotary_factor": 0.75,
}
PHI2_NAMES = LLAMA_NAMES | {
    "model.final_layernorm": "output_norm",
    "self_attn.dense": "attn_output",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
PHI3_NAMES = LLAMA_NAMES | {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}


def _phi2() -> Any:
    from transformers import PhiConfig, PhiForCausalLM

    own = {"num_key_value_heads": 4, "intermediate_size": 256}  # the converter knows no other
    return PhiForCausalLM(PhiConfig(**(SIZES | own), rope_parameters=rope(10000.0, partial_rotary_factor=0.5)))


def _phi2_file(model: Any) -> ModelFile:
    return family_file(model, "phi2", sizes(model.config) | rotated(model.config), PHI2_NAMES)


def _phi3(**more: Any) -> Any:
    from transformers import Phi3Config, Phi3ForCausalLM

    return Phi3ForCausalLM(Phi3Config(**({"rope_parameters": rope(1000.0)} | SIZES | more)))


def _phi3_long(n_original: int) -> Any:
    """Phi 4 mini's: a part of a head is rotated, the output is the embedding. Factors depend on the context's size."""
    sizes = {"max_position_embeddings": 4 * n_original, "original_max_position_embeddings": n_original}
    return _phi3(**sizes, tie_word_embeddings=True, rope_parameters=rope(1000.0, **LONG))


def _phi3_file(model: Any) -> ModelFile:
    config = model.config
    parameters, n_original = config.rope_parameters, config.original_max_position_embeddings
    keys = sizes(config) | rotated(config) | {
        "rope.freq_base": parameters["rope_theta"],
        "rope.scaling.original_context_length": n_original,
        "attention.sliding_window": config.sliding_window or 0,
    }  # fmt: skip
    if parameters["rope_type"] != "longrope":
        return family_file(model, "phi3", keys, PHI3_NAMES)
    stretch = config.max_position_embeddings / n_original
    keys["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(stretch) / math.log(n_original))
    factors = {
        f"rope_factors_{length}.weight": np.array(parameters[f"{length}_factor"], np.float32)
        for length in ("long", "short")
    }
    return family_file(model, "phi3", keys, PHI3_NAMES).with_tensors(factors)


FAMILIES = {
    "phi2": Family("phi2", _phi2, _phi2_file),
    "phi3": Family("phi3", _phi3, _phi3_file),
    "phi3-long": Family("phi3", lambda: _phi3_long(32), _phi3_file),
    "phi3-short": Family("phi3", lambda: _phi3_long(512), _phi3_file),
    "phi3-window": Family(
        "phi3",
        lambda: _phi3(sliding_window=WINDOW),
        _phi3_file,
        peer_differs="it reads the window and attends to everything, as its own warning says",
    ),
}
