"""Mixtures of experts: Mixtral, Qwen 2 and 3, OLMoE."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.helpers.converter import LLAMA_NAMES, stored
from tests.helpers.families.conversion import Change, neighbours, rope_keys, rotated, sizes, unchanged
from tests.helpers.families.family import ODD, SIZES, Family, rope
from tests.helpers.model_file import ModelFile

NAMES = LLAMA_NAMES | {
    "mlp.gate": "ffn_gate_inp",
    "mlp.exp_probs_b": "exp_probs_b",
    "mlp.experts.gate_up_proj": "ffn_gate_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
QWEN = SIZES | {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "decoder_sparse_step": 1}


class _Whole:
    """A torch model whose experts' stacked weights have names as modules' weights have them."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    def state_dict(self) -> dict[str, Tensor]:
        return dict(map(_renamed, *zip(*self.model.state_dict().items(), strict=True)))


def _renamed(name: str, weight: Tensor) -> tuple[str, Tensor]:
    if name.endswith("e_score_correction_bias"):
        return f"{name.partition('mlp.')[0]}mlp.exp_probs_b.bias", weight.flatten()
    if name.endswith("expert_bias"):
        return f"{name.removesuffix('expert_bias')}exp_probs_b.bias", weight
    if name.endswith("_proj_bias"):
        return f"{name.removesuffix('_bias')}.bias", weight
    return name if name.endswith((".weight", ".bias")) else f"{name}.weight", weight


def experts_file(
    model: Any,
    arch: str,
    keys: dict[str, Any],
    names: dict[str, str] = NAMES,
    change: Change = unchanged,
    counts: tuple[int, int] | None = None,
) -> ModelFile:
    """The model as a file of `arch`; what torch has of gates and ups in one is divided. counts: of experts, and of
    chosen ones.
    """
    tensors: dict[str, np.ndarray] = {}
    for name, data in stored(_Whole(model), names, change).items():
        if "ffn_gate_up_" in name:
            gate, up = np.split(data, 2, axis=1 if name.endswith("exps.bias") else data.ndim - 2)
            tensors[name.replace("gate_up", "gate")], tensors[name.replace("gate_up", "up")] = gate.copy(), up.copy()
        else:
            tensors[name] = data[0] if "ffn_gate_inp_shexp" in name else data
    config = model.config
    n_experts, n_chosen = counts or (config.num_experts, config.num_experts_per_tok)
    found = keys | {"expert_count": n_experts, "expert_used_count": n_chosen}
    return ModelFile(arch, {f"{arch}.{key}": value for key, value in found.items()}, tensors)


class Stacks(nn.Module):
    """Experts' weights, for families that transformers has no class for."""

    def __init__(self, n_experts: int, ff: int, n_embd: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(n_experts, 2 * ff, n_embd))
        self.down_proj = nn.Parameter(torch.empty(n_experts, n_embd, ff))


def mixed(x: Tensor, experts: Stacks, chosen: Tensor, weights: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum of the chosen experts, times their weights; all are computed. x [1, T, n_embd], chosen [1, T, k]"""
    gate, up = torch.einsum("eij,btj->btei", experts.gate_up_proj, x).chunk(2, -1)
    every = torch.einsum("eij,btej->btei", experts.down_proj, act(gate) * up)
    found = every.gather(2, chosen.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1]))
    return (weights.unsqueeze(-1) * found).sum(2)


def _mixtral(**more: Any) -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    given = {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": None, "head_dim": 24} | more
    return MixtralForCausalLM(MixtralConfig(**(ODD | given), rope_parameters=rope(1000.0)))


def _mixtral_file(model: Any) -> ModelFile:
    config = model.config
    keys = sizes(config) | rope_keys(config) | rotated(config)
    return experts_file(model, "llama", keys, change=neighbours(config))


def _qwen2() -> Any:
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    shared = {"shared_expert_intermediate_size": 72}
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**QWEN, **shared, rope_parameters=rope(1000.0)))


def _qwen3() -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**QWEN, norm_topk_prob=True, head_dim=24, rope_parameters=rope(1000.0)))


def _qwen_file(model: Any, arch: str) -> ModelFile:
    config = model.config
    keys = sizes(config) | rope_keys(config) | {"expert_feed_forward_length": config.moe_intermediate_size}
    if hasattr(config, "shared_expert_intermediate_size"):
        keys["expert_shared_feed_forward_length"] = config.shared_expert_intermediate_size
    return experts_file(model, arch, keys)


def _olmoe(**more: Any) -> Any:
    from transformers import OlmoeConfig, OlmoeForCausalLM

    given = {"num_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 56, "num_key_value_heads": 4}
    return OlmoeForCausalLM(OlmoeConfig(**(SIZES | given | more), rope_parameters=rope(1000.0)))


def _olmoe_file(model: Any) -> ModelFile:
    return experts_file(model, "olmoe", sizes(model.config) | rope_keys(model.config))


def _phimoe() -> Any:
    from transformers import PhimoeConfig, PhimoeForCausalLM

    given = {"num_local_experts": 6, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True}
    return PhimoeForCausalLM(PhimoeConfig(**(SIZES | given), rope_parameters=rope(1000.0)))


def _phimoe_file(model: Any) -> ModelFile:
    keys = sizes(model.config) | rope_keys(model.config) | rotated(model.config)
    return experts_file(model, "phimoe", keys, NAMES | {"mlp.router": "ffn_gate_inp"}, counts=(6, 2))


FAMILIES = {
    "mixtral": Family("llama", _mixtral, _mixtral_file),
    "mixtral-all-chosen": Family("llama", partial(_mixtral, num_experts_per_tok=5), _mixtral_file),
    "qwen2moe": Family("qwen2moe", _qwen2, lambda model: _qwen_file(model, "qwen2moe")),
    "qwen3moe": Family("qwen3moe", _qwen3, lambda model: _qwen_file(model, "qwen3moe")),
    "phimoe": Family(
        "phimoe", _phimoe, _phimoe_file, peer_differs="it has other norms, and weighs experts by the softmax of all"
    ),
    "olmoe": Family("olmoe", _olmoe, _olmoe_file),
}
