"""Experts beside shared ones: dots.llm1, GLM 4.5, ERNIE 4.5, Hunyuan, Granite; Ling, of which there is a twin."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.helpers.families.conversion import neighbours, rope_keys, rotated, sizes
from tests.helpers.families.experts import NAMES, Stacks, experts_file, mixed
from tests.helpers.families.family import SIZES, Family, rope
from tests.helpers.families.llama_like import granite_scales
from tests.helpers.families.small_changes import hunyuan_keys
from tests.helpers.model_file import ModelFile

MANY_NAMES = NAMES | {f"mlp.shared_experts.{x}_proj": f"ffn_{x}_shexp" for x in ("gate", "up", "down")}
GLM_NAMES = MANY_NAMES | {"post_attention_layernorm": "post_attention_norm"}
HUNYUAN_NAMES = NAMES | {
    "mlp.gate.wg": "ffn_gate_inp",
    **{f"mlp.shared_mlp.{x}_proj": f"ffn_{x}_shexp" for x in ("gate", "up", "down")},
    "self_attn.query_layernorm": "attn_q_norm",
    "self_attn.key_layernorm": "attn_k_norm",
}
GRANITE_NAMES = NAMES | {
    "block_sparse_moe.router": "ffn_gate_inp",
    "block_sparse_moe.experts.gate_up_proj": "ffn_gate_up_exps",
    "block_sparse_moe.experts.down_proj": "ffn_down_exps",
    "shared_mlp.input_linear": "ffn_gate_up_shexp",
    "shared_mlp.output_linear": "ffn_down_shexp",
}
DEEPSEEK = SIZES | {
    "moe_intermediate_size": 40,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "rope_parameters": rope(1000.0),
}


def biased(model: Any) -> Any:
    """With numbers that change which experts are chosen."""
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.3 * torch.randn(buffer.shape))
    return model


def deepseek_keys(config: Any) -> dict[str, Any]:
    return (
        sizes(config)
        | rope_keys(config)
        | {
            "expert_feed_forward_length": config.moe_intermediate_size,
            "expert_shared_count": config.n_shared_experts,
            "expert_gating_func": 2,
            "expert_weights_norm": config.norm_topk_prob,
            "expert_weights_scale": config.routed_scaling_factor,
            "leading_dense_block_count": config.first_k_dense_replace,
            "expert_group_count": config.n_group,
            "expert_group_used_count": config.topk_group,
        }
    )


def _dots1() -> Any:
    from transformers import Dots1Config, Dots1ForCausalLM

    more = {"n_shared_experts": 2, "n_group": 4, "topk_group": 2, "head_dim": 24, "sliding_window": None}
    return biased(Dots1ForCausalLM(Dots1Config(**(DEEPSEEK | more | {"num_key_value_heads": 4}))))


def _dots1_file(model: Any) -> ModelFile:
    return experts_file(model, "dots1", deepseek_keys(model.config), MANY_NAMES, counts=(8, 3))


def _glm4moe(**more: Any) -> Any:
    from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

    turned = {"rope_parameters": rope(1000.0, partial_rotary_factor=0.5), "head_dim": 24}
    config = Glm4MoeConfig(**(DEEPSEEK | turned | {"attention_bias": True} | more))
    return biased(Glm4MoeForCausalLM(config))


def _glm4moe_file(model: Any) -> ModelFile:
    keys = deepseek_keys(model.config) | rotated(model.config)
    return experts_file(model, "glm4moe", keys, GLM_NAMES, counts=(8, 3))


def _bailing2_file(model: Any) -> ModelFile:
    """Queries, keys and values in one matrix, as its code has them."""
    config = model.config
    keys = deepseek_keys(config) | rotated(config)
    keys["expert_shared_feed_forward_length"] = config.n_shared_experts * config.moe_intermediate_size
    file = experts_file(model, "bailingmoe2", keys, MANY_NAMES, counts=(8, 3))
    fused = {}
    for i in range(file.n_layer):
        names = [f"blk.{i}.attn_{x}.weight" for x in "qkv"]
        fused |= dict.fromkeys(names)
        fused[f"blk.{i}.attn_qkv.weight"] = np.concatenate([file.tensors[name] for name in names])
    return file.with_tensors(fused)


def _ernie(**more: Any) -> Any:
    from transformers import Ernie4_5_MoeConfig, Ernie4_5_MoeForCausalLM

    given = {"moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 40, "moe_layer_start_index": 1}
    given["intermediate_size"] = 160  # the converter divides it by the key heads for the shared experts' width, 2 * 40
    return Ernie4_5_MoeForCausalLM(Ernie4_5_MoeConfig(**(SIZES | given | more), rope_parameters=rope(1000.0)))


def _ernie_file(model: Any) -> ModelFile:
    """Its rope turns neighbours in transformers as well: nothing is reordered."""
    config = model.config
    keys = (
        sizes(config)
        | rope_keys(config)
        | {
            "expert_feed_forward_length": config.moe_intermediate_size,
            "expert_shared_count": config.moe_num_shared_experts,
            "leading_dense_block_count": config.moe_layer_start_index,
            "interleave_moe_layer_step": config.moe_layer_interval,
        }
    )
    if config.moe_num_shared_experts:
        keys["expert_shared_feed_forward_length"] = config.moe_num_shared_experts * config.moe_intermediate_size
    return experts_file(model, "ernie4_5-moe", keys, MANY_NAMES, counts=(config.moe_num_experts, config.moe_k))


def _hunyuan() -> Any:
    from transformers import HunYuanMoEV1Config, HunYuanMoEV1ForCausalLM

    parameters = rope(10000.0, rope_type="dynamic", alpha=50.0, factor=1.0)
    own = {"num_experts": 6, "moe_topk": 2, "head_dim": 24, "max_position_embeddings": 32768}
    return HunYuanMoEV1ForCausalLM(HunYuanMoEV1Config(**(SIZES | own), rope_parameters=parameters))


def _hunyuan_file(model: Any) -> ModelFile:
    width = model.config.intermediate_size
    keys = hunyuan_keys(model.config) | {
        "expert_feed_forward_length": width,
        "expert_shared_feed_forward_length": width,
        "expert_shared_count": 1,
    }
    return experts_file(model, "hunyuan-moe", keys, HUNYUAN_NAMES, counts=(6, 2))


def _granite(**more: Any) -> Any:
    from transformers import GraniteMoeSharedConfig, GraniteMoeSharedForCausalLM

    scales = {
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "logits_scaling": 1.7,
    }
    given = {"num_local_experts": 6, "num_experts_per_tok": 2}
    config = GraniteMoeSharedConfig(**(SIZES | scales | given | more), rope_parameters=rope(1000.0))
    return GraniteMoeSharedForCausalLM(config)


def _granite_file(model: Any) -> ModelFile:
    config = model.config
    keys = sizes(config) | rope_keys(config) | granite_scales(config)
    if config.shared_intermediate_size:
        keys["expert_shared_feed_forward_length"] = config.shared_intermediate_size
    return experts_file(model, "granitemoe", keys, GRANITE_NAMES, neighbours(config), (6, 2))


class _Ling(nn.Module):
    """As its code has it: softmax of all, the best, normed; and experts that all tokens share."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 8, bias=False)
        self.experts = Stacks(8, 40, 64)
        sizes = {"gate_proj": (64, 80), "up_proj": (64, 80), "down_proj": (80, 64)}
        self.shared_experts = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(3)
        weights = weights / weights.sum(-1, keepdim=True)
        s = self.shared_experts
        shared = s["down_proj"](nn.functional.silu(s["gate_proj"](x)) * s["up_proj"](x))
        return mixed(x, self.experts, chosen, weights, nn.functional.silu) + shared


def _bailing() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope(1000.0)))
    for layer in model.model.layers:
        layer.mlp = _Ling()
    return model


def _bailing_file(model: Any) -> ModelFile:
    config = model.config
    keys = (
        sizes(config)
        | rope_keys(config)
        | rotated(config)
        | {
            "expert_feed_forward_length": 40,
            "expert_shared_count": 2,
            "expert_weights_norm": True,
            "expert_weights_scale": 1.0,
            "leading_dense_block_count": 0,
        }
    )
    return experts_file(model, "bailingmoe", keys, MANY_NAMES, neighbours(config), (8, 3))


LING = {
    "n_shared_experts": 1,
    "use_qk_norm": True,
    "attention_bias": False,
    "n_group": 4,
    "topk_group": 2,
    "head_dim": 16,
}
FAMILIES = {
    "dots1": Family("dots1", _dots1, _dots1_file),
    "glm4moe": Family("glm4moe", partial(_glm4moe, n_shared_experts=1, use_qk_norm=True), _glm4moe_file),
    "glm4moe-air": Family("glm4moe", partial(_glm4moe, n_shared_experts=1), _glm4moe_file),
    "bailingmoe2": Family(
        "bailingmoe2",
        partial(_glm4moe, **LING),
        _bailing2_file,
        authority="GLM 4.5's twin",
    ),
    "ernie4_5-moe": Family(
        "ernie4_5-moe",
        partial(_ernie, moe_layer_interval=2),
        _ernie_file,
        peer_differs="it asks for experts where it computes none",
    ),
    "ernie4_5-moe-unshared": Family("ernie4_5-moe", partial(_ernie, moe_num_shared_experts=0), _ernie_file),
    "hunyuan-moe": Family("hunyuan-moe", _hunyuan, _hunyuan_file),
    "granitemoe": Family("granitemoe", _granite, _granite_file),
    "granitemoe-shared": Family("granitemoe", partial(_granite, shared_intermediate_size=40), _granite_file),
    "bailingmoe": Family("bailingmoe", _bailing, _bailing_file, authority="a twin of Llama"),
}
