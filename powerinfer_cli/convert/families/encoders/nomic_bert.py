"""Nomic BERT: as transformers saves it, and as Nomic's own code named it; Nomic Embed 2, with experts."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Array, Change, Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.families.encoders.bert import SKIPPED
from powerinfer_cli.convert.families.encoders.pooling import encoder_keys, without_front
from powerinfer_cli.convert.moves import both

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


def _moe_names(config: Config) -> Names:
    """Experts' neurons are rows, one expert's behind the other's, both times."""
    shape = config.integer("num_experts", "num_local_experts"), config.integer("n_inner"), config.integer("n_embd")
    return NAMES | {
        "mlp.fc1": "ffn_up",
        "mlp.fc2": "ffn_down",
        "mlp.router.layer": "ffn_gate_inp",
        "mlp.experts.mlp.w1": Part("ffn_up_exps.weight", _stacked(shape)),
        "mlp.experts.mlp.w2": Part("ffn_down_exps.weight", both(_stacked(shape), _columns)),
    }


def _stacked(shape: tuple[int, int, int]) -> Change:
    def moved(rows: Array) -> Array:
        return rows.reshape(shape)

    return moved


def _columns(stacked: Array) -> Array:
    return stacked.swapaxes(1, 2)


def _moe_keys(config: Config) -> KeyValues:
    """Those for 2048 positions were trained with 512."""
    n_ctx = config.integer("n_positions")
    return encoder_keys(config) | {
        "context_length": 512 if n_ctx == config.integer("max_trained_positions", default=2048) else n_ctx,
        "moe_every_n_layers": config.integer("moe_every_n_layers"),
        "expert_count": config.integer("num_experts", "num_local_experts"),
        "expert_used_count": config.integer("moe_top_k"),
    }


def _has_experts(config: Config) -> bool:
    return config.integer("moe_every_n_layers", default=0) > 0


CONVERSIONS = (
    Conversion(
        "nomic-bert-moe",
        ("NomicBertModel",),
        _moe_names,
        _moe_keys,
        renamed=without_front,
        skipped=SKIPPED + r"|.*mlp\.experts\.bias",
        fits=_has_experts,
        defaults={"layer_norm_epsilon": 1e-12, "rope_theta": 1000.0},
    ),
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
