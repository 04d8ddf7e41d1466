"""Names and keys that most checkpoints have, after Llama's code; others change some of them."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import KeyValues, Names, Part
from powerinfer_cli.convert.moves import gate_and_up, neighbours, plus_one

__all__ = [
    "EXPERTS",
    "GUESSING",
    "LLAMA",
    "POST_NORMS",
    "expert_keys",
    "head_keys",
    "llama_names",
    "norms_plus_one",
    "turned_heads",
    "window_keys",
]

LLAMA: Names = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Norms behind a block instead of before it, or as well as before it.
POST_NORMS: Names = {
    **LLAMA,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
# A matrix each, or all in one stack.
EXPERTS: Names = {
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.experts.*.gate_proj": "ffn_gate_exps",
    "mlp.experts.*.up_proj": "ffn_up_exps",
    "mlp.experts.*.down_proj": "ffn_down_exps",
    "mlp.experts.gate_up_proj": gate_and_up("ffn_{}_exps.weight"),
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
# Of layers that guess further tokens.
GUESSING: Names = {
    "eh_proj": "nextn.eh_proj",
    "embed_tokens": "nextn.embed_tokens",
    "enorm": "nextn.enorm",
    "hnorm": "nextn.hnorm",
    "shared_head.head": "nextn.shared_head_head",
    "shared_head.norm": "nextn.shared_head_norm",
}


def llama_names(config: Config) -> Names:
    return LLAMA


def turned_heads(config: Config, names: Names = LLAMA) -> Names:
    """With rows of queries and keys so that the two of a rotated pair are neighbours."""
    turned = neighbours(config.head_dim)
    return {**names, "self_attn.q_proj": Part("attn_q", turned), "self_attn.k_proj": Part("attn_k", turned)}


def norms_plus_one(names: Names) -> Names:
    """The model adds 1 to norms' weights, the file has the sums."""
    return names | {
        f"{path}.weight": Part(f"{name}.weight", computed=plus_one)
        for path, name in names.items()
        if isinstance(name, str) and name.endswith("norm")
    }


def head_keys(config: Config) -> KeyValues:
    """The vocabulary's size, and how much of a head is turned: the whole."""
    return {"vocab_size": config.integer("vocab_size"), "rope.dimension_count": config.head_dim}


def window_keys(config: Config, period: int) -> KeyValues:
    """The window, and which layers have it: all but each so-many-th, where config.json does not say. Without a window,
    none.
    """
    if "sliding_window" not in config:
        return {}
    if "layer_types" in config:
        pattern = [kind == "sliding_attention" for kind in config.items("layer_types", str, config.n_layer)]
    else:
        pattern = [bool((i + 1) % period) for i in range(config.n_layer)]
    return {
        "attention.sliding_window": config.integer("sliding_window"),
        "attention.sliding_window_pattern": pattern,
    }


def expert_keys(config: Config) -> KeyValues:
    """Of experts beside shared ones, behind dense layers, as DeepSeek's configuration has them."""
    return {
        "expert_feed_forward_length": config.integer("moe_intermediate_size"),
        "expert_shared_count": config.integer("n_shared_experts", "num_shared_experts", default=0),
        "expert_weights_scale": float(config.number("routed_scaling_factor", default=1.0)),
        "expert_weights_norm": config.flag("norm_topk_prob"),
        "leading_dense_block_count": config.integer("first_k_dense_replace", default=0),
    }
