"""SmallThinker, which transformers has no class for: its Llama, changed to what the published code computes."""

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.families.experts import Stacks, mixed
from tests.helpers.families.family import SIZES, WINDOW, Family, rope

FF = 40


def _attend(self: Any, x: Tensor, position_embeddings: tuple[Tensor, Tensor], turned: bool, window: int) -> Tensor:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    made = (proj(x) for proj in (self.q_proj, self.k_proj, self.v_proj))
    q, k, v = (one.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for one in made)
    if turned:
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
    back = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
    seen = (back >= 0) & (back < window)
    out = nn.functional.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True)
    return self.o_proj(out.transpose(1, 2).flatten(2))


def _forward(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    *,
    whole: bool,
    window: int,
    softmax: bool,
    **_: Any,
) -> Tensor:
    """The router reads what the layer gets."""
    moe, x = self.block_sparse_moe, hidden_states
    logits, chosen = moe["primary_router"](x).topk(2)
    weights = logits.softmax(-1) if softmax else logits.sigmoid()
    weights = weights / weights.sum(-1, keepdim=True)
    x = x + _attend(self.self_attn, self.input_layernorm(x), position_embeddings, not whole, window)
    return x + mixed(self.post_attention_layernorm(x), moe["experts"], chosen, weights, torch.relu)


def _smallthinker(*, windows: bool, softmax: bool) -> Any:
    """With windows: 5 layers, of which the 1st and the 5th have none."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = SIZES | {"num_hidden_layers": 5, "head_dim": 24, "intermediate_size": FF}
    model = LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=rope(1000.0)))
    model.windows, model.softmax = windows, softmax
    for i, layer in enumerate(model.model.layers):
        del layer.mlp
        router = nn.Linear(64, 6, bias=False)
        layer.block_sparse_moe = nn.ModuleDict({"primary_router": router, "experts": Stacks(6, FF, 64)})
        whole = windows and i % 4 == 0
        window = WINDOW if windows and not whole else SIZES["max_position_embeddings"]
        layer.forward = MethodType(partial(_forward, whole=whole, window=window, softmax=softmax), layer)
    model.published = partial(_published, model)
    return model


def _published(model: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An expert's matrices by themselves."""
    c, tensors = model.config, {}
    for name, weight in model.state_dict().items():
        stem, _, kind = name.rpartition("experts.")
        if stem:
            parts = (
                {"down": weight} if kind == "down_proj" else dict(zip(("gate", "up"), weight.chunk(2, 1), strict=True))
            )
            tensors |= {f"{stem}experts.{i}.{part}.weight": w[i] for part, w in parts.items() for i in range(6)}
        else:
            tensors[name] = weight
    own = {
        "architectures": ["SmallThinkerForCausalLM"],
        "moe_num_primary_experts": 6,
        "moe_num_active_primary_experts": 2,
        "moe_ffn_hidden_size": FF,
        "moe_primary_router_apply_softmax": model.softmax,
        "sliding_window_layout": [int(model.windows)] * c.num_hidden_layers,
        "sliding_window_size": WINDOW,
    }
    return c.to_dict() | own, tensors


TWIN = "a twin of Llama"
FAMILIES = {
    "smallthinker": Family(
        "smallthinker",
        partial(_smallthinker, windows=True, softmax=False),
        authority=TWIN,
        peer_differs="its windows are of 4096, whatever the file says",
    ),
    "smallthinker-softmax": Family("smallthinker", partial(_smallthinker, windows=False, softmax=True), authority=TWIN),
}
