"""DeepSeek 2 and 3: attention over latents, in files of today and in old ones."""

from functools import partial
from typing import Any

import numpy as np

from tests.helpers.checkpoints import converted
from tests.helpers.families.family import SIZES, Family, rope
from tests.helpers.families.shared_experts import biased
from tests.helpers.model_file import ModelFile

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


def _old_file(model: Any) -> ModelFile:
    """Keys and values of heads are the rows of one matrix, and no key names the gating."""
    file = converted(model)
    changes: dict[str, np.ndarray | None] = {}
    for i in range(file.n_layer):
        keys, values = (f"blk.{i}.attn_{x}_b.weight" for x in "kv")
        both = np.concatenate([file.tensors[keys].transpose(0, 2, 1), file.tensors[values]], 1)
        changes |= {keys: None, values: None, f"blk.{i}.attn_kv_b.weight": both.reshape(-1, RANK)}
    sizes = {"attention__head_count_kv": 4, "attention__key_length": PLAIN + TURNED, "attention__value_length": VALUE}
    none = {"attention__key_length_mla": None, "attention__value_length_mla": None}
    return file.with_tensors(changes).with_metadata(**sizes, **none)


LONG = rope(1000.0, rope_type="yarn", beta_fast=32.0, beta_slow=1.0, **YARN)
GROUPS = {"q_lora_rank": 36, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}
FAMILIES = {
    "deepseek2-lite": Family("deepseek2", _second, peer_layers=26),
    "deepseek2-old": Family("deepseek2", _second, _old_file, peer_layers=26),
    "deepseek2": Family(
        "deepseek2", partial(_second, **GROUPS), peer_differs="it takes groups by their two best experts"
    ),
    "deepseek3": Family("deepseek2", partial(_third, rope_parameters=LONG)),
}
