"""Mixtures of experts: Mixtral, Qwen 2 and 3, OLMoE."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.families.family import ODD, SIZES, Family, rope

QWEN = SIZES | {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "decoder_sparse_step": 1}


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


def _qwen2() -> Any:
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    shared = {"shared_expert_intermediate_size": 72}
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**QWEN, **shared, rope_parameters=rope(1000.0)))


def _qwen3() -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**QWEN, norm_topk_prob=True, head_dim=24, rope_parameters=rope(1000.0)))


def _olmoe(**more: Any) -> Any:
    from transformers import OlmoeConfig, OlmoeForCausalLM

    given = {"num_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 56, "num_key_value_heads": 4}
    return OlmoeForCausalLM(OlmoeConfig(**(SIZES | given | more), rope_parameters=rope(1000.0)))


def _phimoe() -> Any:
    from transformers import PhimoeConfig, PhimoeForCausalLM

    given = {"num_local_experts": 6, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True}
    return PhimoeForCausalLM(PhimoeConfig(**(SIZES | given), rope_parameters=rope(1000.0)))


FAMILIES = {
    "mixtral": Family("llama", _mixtral),
    "mixtral-all-chosen": Family("llama", partial(_mixtral, num_experts_per_tok=5)),
    "qwen2moe": Family("qwen2moe", _qwen2),
    "qwen3moe": Family("qwen3moe", _qwen3),
    "phimoe": Family("phimoe", _phimoe, peer_differs="it has other norms, and weighs experts by the softmax of all"),
    "olmoe": Family("olmoe", _olmoe),
}
