"""MPT: queries, keys and values are in one matrix already, in the file's order."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.norm_f": "output_norm",
    "lm_head": "output",
    "norm_1": "attn_norm",
    "attn.Wqkv": "attn_qkv",
    "attn.q_ln": "attn_q_norm",
    "attn.k_ln": "attn_k_norm",
    "attn.out_proj": "attn_output",
    "norm_2": "ffn_norm",
    "ffn.up_proj": "ffn_up",
    "ffn.down_proj": "ffn_down",
}


def _names(config: Config) -> Names:
    return NAMES


def _keys(config: Config) -> KeyValues:
    attention = Config(config.path, config.section("attn_config"))
    n_kv = attention.integer("kv_n_heads", default=0)
    slopes = attention.number("alibi_bias_max", default=8.0) if attention.flag("alibi", True) else 0.0
    return {
        "block_count": config.n_layer,
        "context_length": config.integer("max_seq_len"),
        "embedding_length": config.n_embd,
        "feed_forward_length": 4 * config.n_embd,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": n_kv or None,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.clamp_kqv": float(attention.number("clip_qkv")) if "clip_qkv" in attention else None,
        "attention.max_alibi_bias": float(slopes),
    }


CONVERSIONS = (
    Conversion(
        "mpt",
        ("MptForCausalLM", "MPTForCausalLM"),
        _names,
        _keys,
        general=False,
        defaults={"tie_word_embeddings": True},
    ),
)
