"""Nomic BERT: as transformers saves it, and as Nomic's own code named it."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.encoders.bert import SKIPPED
from powerinfer_cli.convert.families.encoders.pooling import encoder_keys, without_front

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "emb_ln": "token_embd_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "attn.Wqkv": "attn_qkv",
    "attn.out_proj": "attn_output",
    "post_attention_layernorm": "attn_output_norm",
    "norm1": "attn_output_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.fc12": "ffn_gate",
    "mlp.fc11": "ffn_up",
    "mlp.fc2": "ffn_down",
    "post_mlp_layernorm": "layer_output_norm",
    "norm2": "layer_output_norm",
}


def _names(config: Config) -> Names:
    return NAMES


def _keys(config: Config) -> KeyValues:
    """Models for 8192 positions were trained with 2048."""
    n_ctx = config.integer("n_positions", "max_position_embeddings")
    trained = config.integer("max_trained_positions", default=n_ctx)
    return encoder_keys(config) | {"context_length": min(n_ctx, trained)}


CONVERSIONS = (
    Conversion(
        "nomic-bert",
        ("NomicBertModel",),
        _names,
        _keys,
        renamed=without_front,
        skipped=SKIPPED,
        defaults={"layer_norm_epsilon": 1e-12, "rope_theta": 1000.0},
    ),
)
