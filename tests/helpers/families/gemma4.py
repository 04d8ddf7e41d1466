"""Gemma 4: heads of two sizes, values normed or made of keys, layers' scales, experts beside the dense FFN."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.helpers.families.family import ODD, SIZES, WINDOW, Family, rope
from tests.helpers.tiny_models import N_VOCAB

NARROW, WIDE = 24, 40  # heads of layers with a window, and of the others
PART = 0.25  # of the wide ones that turns
# A row of a table for each layer; the last two read what the two before them keep, and are twice as wide.
SMALL = {
    "num_hidden_layers": 6,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 20,
    "vocab_size_per_layer_input": N_VOCAB,
}
MIXED = {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 40}


def _build(given: dict[str, Any] = SIZES, **more: Any) -> Any:
    """Each layer has a scale of its own, which is no parameter."""
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    bases = {"full_attention": rope(5000.0, rope_type="proportional", partial_rotary_factor=PART)}
    bases["sliding_attention"] = rope(500.0)
    config = {"head_dim": NARROW, "global_head_dim": WIDE, "sliding_window": WINDOW, "hidden_size_per_layer_input": 0}
    n_layer = more.get("num_hidden_layers", SIZES["num_hidden_layers"])
    kinds = {"layer_types": ["sliding_attention", "full_attention"] * (n_layer // 2)}
    model = Gemma4ForCausalLM(Gemma4TextConfig(**(given | config | kinds | more), rope_parameters=bases))
    for layer, scale in zip(model.model.layers, (0.5, 1.5, 0.8, 0.7, 1.2, 0.9)[:n_layer], strict=True):
        layer.layer_scalar.fill_(scale)
    return model


def _family(build: Callable[..., Any]) -> Family:
    return Family("gemma4", build, norm_mean=0.6, embedding=0.08)


EXPERTS = {"gemma4-experts": _family(partial(_build, **MIXED))}
FAMILIES = {
    "gemma4": _family(_build),
    "gemma4-keys-as-values": _family(
        partial(_build, ODD, attention_k_eq_v=True, num_global_key_value_heads=1, final_logit_softcapping=1.5)
    ),
    "gemma4-small": _family(partial(_build, **SMALL)),
    **EXPERTS,
}
