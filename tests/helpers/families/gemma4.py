"""Gemma 4: heads of two sizes, values normed or made of keys, layers' scales, experts beside the dense FFN."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from tests.helpers.converter import stored
from tests.helpers.families.conversion import POST_NORM_NAMES, sizes, unchanged, windows
from tests.helpers.families.family import ODD, SIZES, WINDOW, Family, rope
from tests.helpers.model_file import ModelFile

NAMES = POST_NORM_NAMES | {
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
    "post_feedforward_layernorm_1": "post_ffw_norm_1",
    "post_feedforward_layernorm_2": "post_ffw_norm_2",
    "router.proj": "ffn_gate_inp",
    "router": "ffn_gate_inp",
    "experts.gate_up_proj": "ffn_gate_up_exps",
    "experts.down_proj": "ffn_down_exps",
    "layer_scalar": "layer_output_scale",
}
RENAMED = {
    "router.per_expert_scale": "experts.down_proj.scale",
    "experts.gate_up_proj": "experts.gate_up_proj.weight",
    "experts.down_proj": "experts.down_proj.weight",
    "layer_scalar": "layer_scalar.weight",
}
NARROW, WIDE = 24, 40  # heads of layers with a window, and of the others
PART = 0.25  # of the wide ones that turns
MIXED = {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 40}


def _build(given: dict[str, Any] = SIZES, **more: Any) -> Any:
    """Each layer has a scale of its own, which is no parameter."""
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    bases = {"full_attention": rope(5000.0, rope_type="proportional", partial_rotary_factor=PART)}
    bases["sliding_attention"] = rope(500.0)
    config = {"head_dim": NARROW, "global_head_dim": WIDE, "sliding_window": WINDOW, "hidden_size_per_layer_input": 0}
    kinds = {"layer_types": ["sliding_attention", "full_attention"] * 2}
    model = Gemma4ForCausalLM(Gemma4TextConfig(**(given | config | kinds | more), rope_parameters=bases))
    for layer, scale in zip(model.model.layers, (0.5, 1.5, 0.8, 0.7), strict=True):
        layer.layer_scalar.fill_(scale)
    return model


class _Named:
    """A torch model whose weights have names as modules' weights have them."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    def state_dict(self) -> dict[str, Tensor]:
        found = {}
        for name, weight in self.model.state_dict().items():
            end = next((end for end in RENAMED if name.endswith(end)), "")
            found[f"{name.removesuffix(end)}{RENAMED.get(end, '')}"] = weight
        return found


def _file(model: Any) -> ModelFile:
    config = model.config
    config.allow_global_per_layer_attribute_access = True
    n_kv = [layer.self_attn.k_proj.out_features // layer.self_attn.head_dim for layer in model.model.layers]
    keys = sizes(config) | windows(config)
    keys |= {
        "attention.head_count_kv": n_kv,
        "attention.key_length": WIDE,
        "attention.value_length": WIDE,
        "attention.key_length_swa": NARROW,
        "attention.value_length_swa": NARROW,
        "attention.shared_kv_layers": 0,
        "embedding_length_per_layer_input": 0,
        "rope.dimension_count": WIDE,
        "rope.dimension_count_swa": NARROW,
        "rope.freq_base": 5000.0,
        "rope.freq_base_swa": 500.0,
    }
    if config.final_logit_softcapping:
        keys["final_logit_softcapping"] = config.final_logit_softcapping
    if config.enable_moe_block:
        keys |= {"expert_count": config.num_experts, "expert_used_count": config.top_k_experts}
        keys["expert_feed_forward_length"] = config.moe_intermediate_size
    tensors = stored(_Named(model), NAMES, unchanged)
    turned = int(WIDE * PART / 2)
    tensors["rope_freqs.weight"] = np.array([1.0] * turned + [1e30] * (WIDE // 2 - turned), np.float32)
    return ModelFile("gemma4", {f"gemma4.{key}": value for key, value in keys.items()}, tensors)


def _family(build: Callable[..., Any]) -> Family:
    return Family("gemma4", build, _file, norm_mean=0.6, embedding=0.08)


EXPERTS = {"gemma4-experts": _family(partial(_build, **MIXED))}
FAMILIES = {
    "gemma4": _family(_build),
    "gemma4-keys-as-values": _family(
        partial(_build, ODD, attention_k_eq_v=True, num_global_key_value_heads=1, final_logit_softcapping=1.5)
    ),
    **EXPERTS,
}
