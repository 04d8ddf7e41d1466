"""DeepSeek 2 and 3: attention over latents, in files of today and in old ones."""

from functools import partial
from typing import Any

import numpy as np

from tests.helpers.families.conversion import rope_keys
from tests.helpers.families.experts import experts_file
from tests.helpers.families.family import SIZES, Family, rope
from tests.helpers.families.shared_experts import MANY_NAMES, biased, deepseek_keys
from tests.helpers.model_file import ModelFile

LATENT_NAMES = MANY_NAMES | {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
}
PLAIN, TURNED, VALUE, RANK = 20, 12, 24, 40
GIVEN = SIZES | {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 40,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "rms_norm_eps": 1e-6,
    "kv_lora_rank": RANK,
    "qk_nope_head_dim": PLAIN,
    "qk_rope_head_dim": TURNED,
    "v_head_dim": VALUE,
    "head_dim": TURNED,
}
YARN = {"factor": 8.0, "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 0.7}


def _second(**more: Any) -> Any:
    from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

    lite = {"q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1, "norm_topk_prob": False}
    given = GIVEN | lite | {"rope_parameters": rope(1000.0)} | more
    return DeepseekV2ForCausalLM(DeepseekV2Config(**given))


def _third(**more: Any) -> Any:
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    own = {"q_lora_rank": 36, "n_group": 4, "topk_group": 2, "norm_topk_prob": True}
    given = GIVEN | own | {"rope_parameters": rope(1000.0)} | more
    return biased(DeepseekV3ForCausalLM(DeepseekV3Config(**given)))


def _file(model: Any, *, old: bool = False) -> ModelFile:
    """old: keys and values of heads are the rows of one matrix."""
    config = model.config
    keys = deepseek_keys(config) | rope_keys(config) | {
        "attention.head_count_kv": 4 if old else 1,
        "attention.key_length": PLAIN + TURNED if old else RANK + TURNED,
        "attention.value_length": VALUE if old else RANK,
        "attention.kv_lora_rank": RANK,
        "rope.dimension_count": TURNED,
    }  # fmt: skip
    if config.q_lora_rank is not None:
        keys["attention.q_lora_rank"] = config.q_lora_rank
    if not old:
        keys |= {"attention.key_length_mla": PLAIN + TURNED, "attention.value_length_mla": VALUE}
    if "mscale_all_dim" in config.rope_parameters:
        keys["rope.scaling.yarn_log_multiplier"] = 0.1 * config.rope_parameters["mscale_all_dim"]
    if config.model_type == "deepseek_v2":
        del keys["expert_gating_func"]  # as old files have it
    file = experts_file(model, "deepseek2", keys, LATENT_NAMES, counts=(8, 3))
    return file if old else file.with_tensors(_divided(file))


def _divided(file: ModelFile) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, data in file.tensors.items():
        if "attn_kv_b" in name:
            keys, values = np.split(data.reshape(4, PLAIN + VALUE, RANK), [PLAIN], axis=1)
            found[name.replace("kv_b", "k_b")] = np.ascontiguousarray(keys.transpose(0, 2, 1))
            found[name.replace("kv_b", "v_b")], found[name] = np.ascontiguousarray(values), None
    return found


LONG = rope(1000.0, rope_type="yarn", beta_fast=32.0, beta_slow=1.0, **YARN)
GROUPS = {"q_lora_rank": 36, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}
FAMILIES = {
    "deepseek2-lite": Family("deepseek2", _second, _file, peer_layers=26),
    "deepseek2-old": Family("deepseek2", _second, partial(_file, old=True), peer_layers=26),
    "deepseek2": Family(
        "deepseek2", partial(_second, **GROUPS), _file, peer_differs="it takes groups by their two best experts"
    ),
    "deepseek3": Family("deepseek2", partial(_third, rope_parameters=LONG), _file),
}
