"""Encoders: tiny torch models that make vectors of texts, and the files that llama.cpp's converter makes of them."""

import string
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from powerinfer_cli.text.algorithms.spm import SPACE
from tests.helpers.checkpoints import converted
from tests.helpers.families.family import ODD, SIZES, Family, TinyFamily, rope, tiny
from tests.helpers.families.jina_bert import JinaBert, JinaConfig
from tests.helpers.families.nomic_moe import NomicMoe, NomicMoeConfig
from tests.helpers.model_file import ModelFile

PADDING = 1  # XLM-RoBERTa's: positions begin behind it


def _config(odd: bool = False, **changes: Any) -> dict[str, Any]:
    some = {name: size for name, size in (ODD if odd else SIZES).items() if name != "num_key_value_heads"}
    return some | {"num_hidden_layers": 3, "max_position_embeddings": 256} | changes


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**_config(odd=True)), add_pooling_layer=False)


def _xlm_roberta(**more: Any) -> Any:
    """Positions begin behind the padding's number."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    return XLMRobertaModel(XLMRobertaConfig(**_config(**XLM), **more), add_pooling_layer=False)


def _reranker() -> Any:
    """As BGE's: a classification head, of the first token's vector."""
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    return XLMRobertaForSequenceClassification(XLMRobertaConfig(**_config(**XLM), num_labels=1))


XLM = {"pad_token_id": PADDING, "bos_token_id": 0, "type_vocab_size": 1}


def _nomic() -> Any:
    from transformers import NomicBertConfig, NomicBertModel

    return NomicBertModel(NomicBertConfig(**_config()), add_pooling_layer=False)


def _jina_3() -> Any:
    from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

    return JinaEmbeddingsV3Model(JinaEmbeddingsV3Config(**_config(**XLM)))


def _jina_2(**more: Any) -> Any:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
    known = {name: SIZES[name] for name in names}
    return JinaBert(JinaConfig(**known, num_hidden_layers=3, max_position_embeddings=256, **more))


def _nomic_moe() -> Any:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
    known = {name: SIZES[name] for name in names}
    return NomicMoe(NomicMoeConfig(**known, num_hidden_layers=4, max_position_embeddings=256))


def _modern(**more: Any) -> Any:
    """Four layers, of which the first and the last see everything."""
    from transformers import ModernBertModel

    return ModernBertModel(_modern_config(**more))


def _modern_config(**more: Any) -> Any:
    from transformers import ModernBertConfig

    bases = {"full_attention": rope(1000.0), "sliding_attention": rope(50.0)}
    ids = {"cls_token_id": 1, "sep_token_id": 2, "num_hidden_layers": 4, "local_attention": 10}
    return ModernBertConfig(**_config(**ids), rope_parameters=bases, **more)


def _modern_reranker(**more: Any) -> Any:
    from transformers import ModernBertForSequenceClassification

    return ModernBertForSequenceClassification(_modern_config(num_labels=2, **more))


def _eurobert() -> Any:
    from transformers import EuroBertConfig, EuroBertModel

    sizes = SIZES | {"num_hidden_layers": 3, "mask_token_id": 3}
    return EuroBertModel(EuroBertConfig(**sizes, rope_parameters=rope(1000.0)))


def _gemma() -> Any:
    """Eight layers, of which the sixth sees everything."""
    from transformers import Gemma3TextConfig, Gemma3TextModel

    bases = {"full_attention": rope(1000.0), "sliding_attention": rope(100.0)}
    more = {"num_hidden_layers": 8, "head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 16}
    config = Gemma3TextConfig(**(SIZES | more), rope_parameters=bases, use_bidirectional_attention=True)
    return Gemma3TextModel(config)


def _pooled(model: Any, kind: int = 1) -> ModelFile:
    """kind: how vectors are pooled, which files of sentence-transformers say: 1 the mean, 4 by a classifier."""
    return converted(model).with_metadata(pooling_type=kind)


ENCODERS = {
    "bert": Family("bert", _bert, _pooled),
    "xlm-roberta": Family("bert", _xlm_roberta, _pooled),
    "bge-reranker": Family("bert", _reranker, partial(_pooled, kind=4)),
    "nomic-bert": Family("nomic-bert", _nomic, _pooled),
    "nomic-bert-moe": Family("nomic-bert-moe", _nomic_moe, _pooled, authority="twin"),
    "jina-bert-v2": Family("jina-bert-v2", _jina_2, _pooled, authority="twin"),
    "jina-bert-v2-code": Family("jina-bert-v2", lambda: _jina_2(code=True), _pooled, authority="twin"),
    "jina-bert-v3": Family("jina-bert-v3", _jina_3, _pooled),
    "modern-bert": Family("modern-bert", _modern, _pooled),
    "modern-bert-silu": Family("modern-bert", lambda: _modern(hidden_activation="silu"), _pooled),
    "modern-bert-reranker": Family("modern-bert", _modern_reranker, _pooled),
    "modern-bert-mean": Family("modern-bert", lambda: _modern_reranker(classifier_pooling="mean"), _pooled),
    "eurobert": Family("eurobert", _eurobert, _pooled),
    "gemma-embedding": Family("gemma-embedding", _gemma, _pooled, norm_mean=0.0),
}
RERANKERS = ("bge-reranker", "modern-bert-reranker", "modern-bert-mean")


@cache
def tiny_encoder(name: str) -> TinyFamily:
    """Its torch model and its file, built once."""
    return tiny(name, ENCODERS[name])


@torch.no_grad()
def states(tiny_model: TinyFamily, ids: list[int]) -> np.ndarray:
    """The torch model's hidden states [T, n_embd], or a reranker's scores."""
    found = tiny_model.torch_model(torch.tensor([ids]))
    return (found.last_hidden_state if hasattr(found, "last_hidden_state") else found.logits)[0].numpy()


def with_words(file: ModelFile) -> ModelFile:
    """The file with a WordPiece vocabulary of letters, digits and punctuation."""
    letters, digits = string.ascii_lowercase, string.digits[:8]
    pieces = [*(SPACE + c for c in letters + string.punctuation + digits), *letters]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    return replace(
        file,
        metadata={
            **file.metadata,
            "tokenizer.ggml.model": "bert",
            "tokenizer.ggml.tokens": [*specials, *pieces],
            "tokenizer.ggml.token_type": np.array([3, 2, 3, 3] + [1] * len(pieces), np.int32),
            "tokenizer.ggml.unknown_token_id": 1,
            "tokenizer.ggml.bos_token_id": 2,
            "tokenizer.ggml.seperator_token_id": 3,
        },
    )
