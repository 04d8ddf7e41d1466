"""Jina BERT 2, by the names of its own code."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, Names
from powerinfer_cli.convert.families.encoders.bert import SKIPPED
from powerinfer_cli.convert.families.encoders.pooling import encoder_keys, without_front

__all__ = ["CONVERSIONS"]

NAMES: Names = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.self.layer_norm_q": "attn_q_norm",
    "attention.self.layer_norm_k": "attn_k_norm",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "layer_norm_1": "attn_norm_2",
    "layer_norm_2": "layer_output_norm",
    "mlp.gated_layers": "ffn_up",
    "mlp.up_gated_layer": "ffn_up",
    "mlp.wo": "ffn_down",
    "mlp.down_layer": "ffn_down",
    "mlp.layernorm": "layer_output_norm",
}


def _names(config: Config) -> Names:
    return NAMES


CONVERSIONS = (
    Conversion(
        "jina-bert-v2",
        ("JinaBertModel", "JinaBertForMaskedLM"),
        _names,
        encoder_keys,
        renamed=without_front,
        skipped=SKIPPED,
        defaults={"layer_norm_eps": 1e-12},
    ),
)
