"""Falcon: each key head lies with its queries and values; the file has all queries, then keys, then values."""

import numpy as np

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Array, Conversion, KeyValues, Names, Part

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    "transformer.word_embeddings": "token_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "ln_mlp": "attn_norm",
    "ln_attn": "attn_norm_2",
    "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def _n_kv(config: Config) -> int:
    """Of the newer form; of the older one there is a single key head, or each head has its own."""
    if config.flag("new_decoder_architecture"):
        return config.integer("num_kv_heads", "n_head_kv", default=config.n_head)
    return 1 if config.flag("multi_query", True) else config.n_head


def _names(config: Config) -> Names:
    n_kv = _n_kv(config)
    group, size = config.n_head // max(1, n_kv), config.n_embd // max(1, config.n_head)

    def apart(rows: Array) -> Array:
        groups = rows.reshape(n_kv, group + 2, size, *rows.shape[1:])
        parts = groups[:, :group], groups[:, group : group + 1], groups[:, group + 1 :]
        return np.concatenate([part.reshape(-1, *rows.shape[1:]) for part in parts])

    return {**NAMES, "self_attention.query_key_value": Part("attn_qkv", apart)}


def _keys(config: Config) -> KeyValues:
    """The context's length is not in config.json."""
    return {
        "block_count": config.n_layer,
        "context_length": 2048,
        "tensor_data_layout": "jploski",
        "embedding_length": config.n_embd,
        "feed_forward_length": 4 * config.n_embd,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": _n_kv(config),
        "attention.layer_norm_epsilon": config.number("layer_norm_epsilon"),
        "hidden_activation": "relu" if config.get("activation") == "relu" else None,
    }


CONVERSIONS = (
    Conversion(
        "falcon",
        ("FalconForCausalLM", "RWForCausalLM"),
        _names,
        _keys,
        general=False,
        defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    ),
)
