"""LFM2: short convolutions, over one channel each."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.moves import gate_and_up, without_channel

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    "model.embed_tokens": "token_embd",
    "model.embedding_norm": "token_embd_norm",
    "lm_head": "output",
    "operator_norm": "attn_norm",
    "conv.conv": Part("shortconv.conv", without_channel),
    "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "feed_forward.gate": "ffn_gate_inp",
    "feed_forward.expert_bias": "exp_probs_b.bias",
    "feed_forward.experts.*.w1": "ffn_gate_exps",
    "feed_forward.experts.*.w2": "ffn_down_exps",
    "feed_forward.experts.*.w3": "ffn_up_exps",
    "feed_forward.experts.gate_up_proj": gate_and_up("ffn_{}_exps.weight"),
    "feed_forward.experts.down_proj": "ffn_down_exps.weight",
}
SIGMOID = 2


def _names(config: Config) -> Names:
    return NAMES


def _state_keys(config: Config) -> KeyValues:
    """Layers with a convolution have no key heads."""
    kinds = config.items("layer_types", str, config.n_layer)
    return {
        "attention.head_count_kv": [config.n_head_kv if kind == "full_attention" else 0 for kind in kinds],
        "vocab_size": config.integer("vocab_size"),
        "shortconv.l_cache": config.integer("conv_L_cache"),
    }


def _keys(config: Config) -> KeyValues:
    """The FFN's width is adjusted, unless config.json says otherwise."""
    width = config.integer("block_ff_dim", "intermediate_size")
    if config.flag("block_auto_adjust_ff_dim", True):
        width = int(config.number("block_ffn_dim_multiplier", default=1.0) * int(2 * width / 3))
        step = max(1, config.integer("block_multiple_of", default=256))
        width = -(-width // step) * step
    return _state_keys(config) | {"feed_forward_length": width}


def _moe_keys(config: Config) -> KeyValues:
    return _state_keys(config) | {
        "expert_feed_forward_length": config.integer("moe_intermediate_size"),
        "leading_dense_block_count": config.integer("num_dense_layers"),
        "expert_gating_func": SIGMOID,
    }


DEFAULTS = {"norm_eps": 1e-5, "rope_theta": 1000000.0, "conv_L_cache": 3, "tie_word_embeddings": True}
CONVERSIONS = (
    Conversion("lfm2", ("Lfm2ForCausalLM", "LFM2ForCausalLM"), _names, _keys, defaults=DEFAULTS),
    Conversion("lfm2moe", ("Lfm2MoeForCausalLM",), _names, _moe_keys, defaults=DEFAULTS),
)
