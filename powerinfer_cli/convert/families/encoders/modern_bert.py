"""ModernBERT: matrices are fused as the file has them; a pattern says how often a layer sees everything."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names
from powerinfer_cli.convert.families.encoders.pooling import encoder_keys, without_front

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    "embeddings.tok_embeddings": "token_embd",
    "embeddings.norm": "token_embd_norm",
    "attn_norm": "attn_norm",
    "attn.Wqkv": "attn_qkv",
    "attn.Wo": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp.Wi": "ffn_up",
    "mlp.Wo": "ffn_down",
    "final_norm": "output_norm",
    "head.dense": "cls",
    "head.norm": "cls.norm",
    "classifier": "cls.output",
}


def _names(config: Config) -> Names:
    return NAMES


def _keys(config: Config) -> KeyValues:
    return encoder_keys(config) | {
        "attention.sliding_window": config.integer("local_attention"),
        "attention.sliding_window_pattern": config.integer("global_attn_every_n_layers", default=3),
        "attention.layer_norm_epsilon": config.number("norm_eps"),
        "rope.scaling.type": "none",
        "vocab_size": config.integer("vocab_size"),
        "hidden_activation": config.get("hidden_activation"),
    }


CONVERSIONS = (
    Conversion(
        "modern-bert",
        ("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
        _names,
        _keys,
        renamed=without_front,
        skipped=r"decoder\..*",
        defaults={"norm_eps": 1e-5, "local_attention": 128, "hidden_activation": "gelu"},
    ),
)
