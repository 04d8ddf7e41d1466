"""Experts beside shared ones: dots.llm1, GLM 4.5, ERNIE 4.5, Hunyuan, Granite; Ling, of which there is a twin."""

from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.families.experts import Stacks, mixed
from tests.helpers.families.family import SIZES, Family, rope

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


def _dots1() -> Any:
    from transformers import Dots1Config, Dots1ForCausalLM

    more = {"n_shared_experts": 2, "n_group": 4, "topk_group": 2, "head_dim": 24, "sliding_window": None}
    return biased(Dots1ForCausalLM(Dots1Config(**(DEEPSEEK | more | {"num_key_value_heads": 4}))))


def _glm4moe(**more: Any) -> Any:
    from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

    turned = {"rope_parameters": rope(1000.0, partial_rotary_factor=0.5), "head_dim": 24}
    config = Glm4MoeConfig(**(DEEPSEEK | turned | {"attention_bias": True} | more))
    return biased(Glm4MoeForCausalLM(config))


def _ernie(**more: Any) -> Any:
    from transformers import Ernie4_5_MoeConfig, Ernie4_5_MoeForCausalLM

    given = {"moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 40, "moe_layer_start_index": 1}
    given["intermediate_size"] = 160  # the converter divides it by the key heads for the shared experts' width, 2 * 40
    return Ernie4_5_MoeForCausalLM(Ernie4_5_MoeConfig(**(SIZES | given | more), rope_parameters=rope(1000.0)))


def _hunyuan() -> Any:
    from transformers import HunYuanMoEV1Config, HunYuanMoEV1ForCausalLM

    parameters = rope(10000.0, rope_type="dynamic", alpha=50.0, factor=1.0)
    own = {"num_experts": 6, "moe_topk": 2, "head_dim": 24, "max_position_embeddings": 32768}
    return HunYuanMoEV1ForCausalLM(HunYuanMoEV1Config(**(SIZES | own), rope_parameters=parameters))


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
    model.published = partial(_ling, model, first=1)
    return model


def _bailing2() -> Any:
    model = _glm4moe(**LING)
    model.published = partial(_ling, model, first=2)
    return model


def _ling(model: Any, first: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """As Ling's code has it: queries, keys and values in one matrix, an expert's matrices by themselves."""
    c, tensors = model.config, {}
    names = {"self_attn.o_proj": "attention.dense", "model.embed_tokens": "model.word_embeddings"}
    names |= {"self_attn.q_norm": "attention.query_layernorm", "self_attn.k_norm": "attention.key_layernorm"}
    names |= {"gate.e_score_correction_bias": "gate.expert_bias"}
    state = model.state_dict()
    for name, weight in state.items():
        stem, _, kind = name.rpartition("experts.")
        if "self_attn" in name and name[-13:] in ("q_proj.weight", "k_proj.weight", "v_proj.weight"):
            if name.endswith("q_proj.weight"):
                front = name.removesuffix("self_attn.q_proj.weight")
                qkv = [state[f"{front}self_attn.{x}_proj.weight"] for x in "qkv"]
                tensors[f"{front}attention.query_key_value.weight"] = torch.cat(qkv)
        elif kind in ("gate_up_proj", "down_proj"):
            gate_up = dict(zip(("gate_proj", "up_proj"), weight.chunk(2, 1), strict=True))
            for part, w in (gate_up if kind == "gate_up_proj" else {kind: weight}).items():
                tensors |= {f"{stem}experts.{i}.{part}.weight": w[i] for i in range(8)}
        else:
            tensors[reduce(lambda path, pair: path.replace(*pair), names.items(), name)] = weight
    own: dict[str, Any] = {
        "architectures": ["BailingMoeForCausalLM" if first == 1 else "BailingMoeV2ForCausalLM"],
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 40,
        "num_shared_experts": 2 if first == 1 else c.n_shared_experts,
        "norm_topk_prob": True,
        "first_k_dense_replace": 0 if first == 1 else c.first_k_dense_replace,
    }
    if first == 2:
        own |= {"score_function": "sigmoid", "num_nextn_predict_layers": 0}
    return c.to_dict() | own, tensors


LING = {
    "n_shared_experts": 1,
    "use_qk_norm": True,
    "attention_bias": False,
    "n_group": 4,
    "topk_group": 2,
    "head_dim": 16,
}
FAMILIES = {
    "dots1": Family("dots1", _dots1),
    "glm4moe": Family("glm4moe", partial(_glm4moe, n_shared_experts=1, use_qk_norm=True)),
    "glm4moe-air": Family("glm4moe", partial(_glm4moe, n_shared_experts=1)),
    "bailingmoe2": Family(
        "bailingmoe2",
        _bailing2,
        authority="GLM 4.5's twin",
    ),
    "ernie4_5-moe": Family(
        "ernie4_5-moe",
        partial(_ernie, moe_layer_interval=2),
        peer_differs="it asks for experts where it computes none",
    ),
    "ernie4_5-moe-unshared": Family("ernie4_5-moe", partial(_ernie, moe_num_shared_experts=0)),
    "hunyuan-moe": Family("hunyuan-moe", _hunyuan),
    "granitemoe": Family("granitemoe", _granite),
    "granitemoe-shared": Family("granitemoe", partial(_granite, shared_intermediate_size=40)),
    "bailingmoe": Family("bailingmoe", _bailing, authority="a twin of Llama"),
}
