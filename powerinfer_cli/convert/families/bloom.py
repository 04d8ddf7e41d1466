"""BLOOM, which has a head's queries, keys and values together; Baichuan, which has them in one matrix."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.families.names import turned_heads
from powerinfer_cli.convert.moves import both, neighbours, rows_between, thirds

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    "transformer.word_embeddings": "token_embd",
    "transformer.word_embeddings_layernorm": "token_embd_norm",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def _bloom(config: Config) -> Names:
    return {**NAMES, "self_attention.query_key_value": Part("attn_qkv", thirds(config.n_head))}


def _with_front(config: Config, name: str) -> str:
    """The released files name no `transformer`."""
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"


def _bloom_keys(config: Config) -> KeyValues:
    """Where the context's length is not said, it is the width."""
    return {
        "block_count": config.n_layer,
        "context_length": config.integer("seq_length", default=config.n_embd),
        "embedding_length": config.n_embd,
        "feed_forward_length": 4 * config.n_embd,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.n_head,
        "attention.layer_norm_epsilon": config.number("layer_norm_epsilon"),
    }


def _baichuan(config: Config) -> Names:
    turned, n = neighbours(config.head_dim), config.n_embd
    parts = (
        Part("attn_q", both(rows_between(0, n), turned)),
        Part("attn_k", both(rows_between(n, 2 * n), turned)),
        Part("attn_v", rows_between(2 * n, 3 * n)),
    )
    return {**turned_heads(config), "self_attn.W_pack": parts}


def _baichuan_keys(config: Config) -> KeyValues:
    return {"tensor_data_layout": "Meta AI original pth", "rope.dimension_count": config.n_embd // config.n_head}


CONVERSIONS = (
    Conversion(
        "bloom",
        ("BloomForCausalLM", "BloomModel"),
        _bloom,
        _bloom_keys,
        renamed=_with_front,
        general=False,
        defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    ),
    Conversion(
        "baichuan",
        ("BaichuanForCausalLM", "BaiChuanForCausalLM"),
        _baichuan,
        _baichuan_keys,
        defaults={"rms_norm_eps": 1e-6},
    ),
)
