"""BERT, RoBERTa and XLM-RoBERTa, whose positions begin behind the padding's number; Jina embeddings 3."""

from functools import partial

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.families.encoders.pooling import encoder_keys, labels, without_front
from powerinfer_cli.convert.moves import rows_between

__all__ = ["CONVERSIONS", "SKIPPED"]

NAMES: Names = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
    "classifier.dense": "cls",
    "classifier.out_proj": "cls.output",
}
JINA3: Names = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "emb_ln": "token_embd_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mixer.Wqkv": "attn_qkv",
    "mixer.out_proj": "attn_output",
    "post_attention_layernorm": "attn_output_norm",
    "norm1": "attn_output_norm",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "post_mlp_layernorm": "layer_output_norm",
    "norm2": "layer_output_norm",
}
SKIPPED = (
    r"embeddings\.position_ids|pooler\..*|cls\.(predictions|seq_relationship)\..*|lm_head\..*|vocab_.*|.*\.lora_[AB]"
)


def _first(config: Config) -> int:
    """Position that the table's row 0 would be."""
    return 1 + config.integer("pad_token_id") if "pad_token_id" in config else 0


def _bert(config: Config) -> Names:
    return {**NAMES, "classifier": "cls.output" if labels(config) else "cls"}


def _roberta(config: Config) -> Names:
    table = Part("position_embd", rows_between(_first(config)))
    return {**_bert(config), "embeddings.position_embeddings": table}


def _jina3(config: Config) -> Names:
    return JINA3


def _parametrized(config: Config, name: str) -> str:
    """As Jina's own files have what its adapters change."""
    return without_front(config, name).replace(".parametrizations.", ".").removesuffix(".original")


def _roberta_keys(config: Config) -> KeyValues:
    n_ctx = config.integer("max_position_embeddings")
    return encoder_keys(config) | {"context_length": n_ctx - _first(config)}


def _has_rope(config: Config) -> bool:
    return "lora_adaptations" in config or str(config.get("model_type")).startswith("jina")


ENCODER = partial(Conversion, renamed=without_front, skipped=SKIPPED, defaults={"layer_norm_eps": 1e-12})
JINA_3 = ("JinaEmbeddingsV3Model", "JinaEmbeddingsV3ForMaskedLM", "XLMRobertaModel")
CONVERSIONS = (
    ENCODER("bert", ("BertModel", "BertForMaskedLM", "BertForSequenceClassification"), _bert, encoder_keys),
    Conversion(
        "jina-bert-v3",
        JINA_3,
        _jina3,
        _roberta_keys,
        renamed=_parametrized,
        skipped=SKIPPED,
        fits=_has_rope,
        defaults={"layer_norm_eps": 1e-5, "rope_theta": 20000.0},
    ),
    ENCODER(
        "bert",
        (
            *("RobertaModel", "RobertaForSequenceClassification", "CamembertModel"),
            *("XLMRobertaModel", "XLMRobertaForSequenceClassification"),
        ),
        _roberta,
        _roberta_keys,
    ),
)
