"""Encoders: tiny torch models that make vectors of texts, and the files that llama.cpp's converter makes of them."""

import string
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from powerinfer_cli.text.spm import SPACE
from tests.helpers.converter import LLAMA_NAMES
from tests.helpers.families.conversion import POST_NORM_NAMES, family_file, norms_plus_one, rope_keys, sizes, windows
from tests.helpers.families.family import ODD, SIZES, Family, TinyFamily, rope, tiny
from tests.helpers.families.jina_bert import JinaBert, JinaConfig
from tests.helpers.model_file import ModelFile

KEYS = {"attention.causal": False, "pooling_type": 1}
PADDING = 1  # XLM-RoBERTa's: positions begin behind it

BERT_NAMES = {
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
NOMIC_NAMES = LLAMA_NAMES | {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "post_attention_layernorm": "attn_output_norm",
    "post_mlp_layernorm": "layer_output_norm",
}
MODERN_NAMES = {
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


@dataclass(frozen=True)
class Stripped:
    """A model without what stands before its parameters' names."""

    inner: Any
    prefix: str
    dropped: tuple[str, ...] = ("pooler.", "drop.")

    @property
    def config(self) -> Any:
        return self.inner.config

    def state_dict(self) -> dict[str, Tensor]:
        weights = self.inner.state_dict().items()
        found = {name.removeprefix(self.prefix).replace("encoder.layer.", "layers."): one for name, one in weights}
        return {name: weight for name, weight in found.items() if not name.startswith(self.dropped)}


def _config(odd: bool = False, **changes: Any) -> dict[str, Any]:
    some = {name: size for name, size in (ODD if odd else SIZES).items() if name != "num_key_value_heads"}
    return some | {"num_hidden_layers": 3, "max_position_embeddings": 256} | changes


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**_config(odd=True)), add_pooling_layer=False)


def bert_file(model: Any) -> ModelFile:
    """BERT, as llama.cpp's converter writes it."""
    return _file(Stripped(model, ""), "bert", BERT_NAMES)


def _xlm_roberta(**more: Any) -> Any:
    """Positions begin behind the padding's number."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    return XLMRobertaModel(XLMRobertaConfig(**_config(**XLM), **more), add_pooling_layer=False)


def _reranker() -> Any:
    """As BGE's: a classification head, of the first token's vector."""
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    return XLMRobertaForSequenceClassification(XLMRobertaConfig(**_config(**XLM), num_labels=1))


XLM = {"pad_token_id": PADDING, "bos_token_id": 0, "type_vocab_size": 1}


def _xlm_roberta_file(model: Any) -> ModelFile:
    def change(target: str, weight: Tensor) -> Tensor:
        return weight[PADDING + 1 :] if target == "position_embd.weight" else weight

    keys = {"context_length": model.config.max_position_embeddings - PADDING - 1}
    if model.config.num_labels == 1:
        keys["pooling_type"] = 4
    return _file(Stripped(model, "roberta."), "bert", BERT_NAMES, keys, change)


def _nomic() -> Any:
    from transformers import NomicBertConfig, NomicBertModel

    return NomicBertModel(NomicBertConfig(**_config()), add_pooling_layer=False)


def _nomic_file(model: Any) -> ModelFile:
    return _file(Stripped(model, ""), "nomic-bert", NOMIC_NAMES, rope_keys(model.config))


def _jina_3() -> Any:
    from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

    return JinaEmbeddingsV3Model(JinaEmbeddingsV3Config(**_config(**XLM)))


def _jina_3_file(model: Any) -> ModelFile:
    names = NOMIC_NAMES | {"mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down"}
    return _file(Stripped(model, ""), "jina-bert-v3", names, rope_keys(model.config))


def _jina_2(**more: Any) -> Any:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
    known = {name: SIZES[name] for name in names}
    return JinaBert(JinaConfig(**known, num_hidden_layers=3, max_position_embeddings=256, **more))


def _jina_2_file(model: Any) -> ModelFile:
    ends = {name: name for name in ("token_embd", "token_types", "token_embd_norm")}
    inside = {name: name for name, _ in model.layers[0].named_children()}
    return _file(Stripped(model, ""), "jina-bert-v2", ends | inside)


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


def _modern_file(model: Any) -> ModelFile:
    c = model.config
    keys = rope_keys(c) | {
        "attention.sliding_window": c.local_attention,
        "attention.sliding_window_pattern": 3,
        "attention.layer_norm_epsilon": c.norm_eps,
        "hidden_activation": c.hidden_activation,
        "classifier.pooling_type": {"mean": 1, "cls": 2}[c.classifier_pooling],
    }
    return _file(Stripped(model, "model."), "modern-bert", MODERN_NAMES, keys)


def _eurobert() -> Any:
    from transformers import EuroBertConfig, EuroBertModel

    sizes = SIZES | {"num_hidden_layers": 3, "mask_token_id": 3}
    return EuroBertModel(EuroBertConfig(**sizes, rope_parameters=rope(1000.0)))


DECODERS = {name.removeprefix("model."): target for name, target in LLAMA_NAMES.items()}


def _eurobert_file(model: Any) -> ModelFile:
    return _file(Stripped(model, ""), "eurobert", DECODERS, rope_keys(model.config))


def _gemma() -> Any:
    """Eight layers, of which the sixth sees everything."""
    from transformers import Gemma3TextConfig, Gemma3TextModel

    bases = {"full_attention": rope(1000.0), "sliding_attention": rope(100.0)}
    more = {"num_hidden_layers": 8, "head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 16}
    config = Gemma3TextConfig(**(SIZES | more), rope_parameters=bases, use_bidirectional_attention=True)
    return Gemma3TextModel(config)


def _gemma_file(model: Any) -> ModelFile:
    """The config's window counts one side, and the token itself; the file's both."""
    names = {name.removeprefix("model."): target for name, target in POST_NORM_NAMES.items()}
    keys = rope_keys(model.config) | windows(model.config) | {"attention.sliding_window": 12}
    return _file(Stripped(model, ""), "gemma-embedding", names, keys, norms_plus_one)


def _file(model: Stripped, arch: str, names: dict[str, str], keys: Any = None, change: Any = None) -> ModelFile:
    known = sizes(model.config) | KEYS | (keys or {})
    return family_file(model, arch, known, names, change or (lambda _, weight: weight))


ENCODERS = {
    "bert": Family("bert", _bert, bert_file),
    "xlm-roberta": Family("bert", _xlm_roberta, _xlm_roberta_file),
    "bge-reranker": Family("bert", _reranker, _xlm_roberta_file),
    "nomic-bert": Family("nomic-bert", _nomic, _nomic_file),
    "jina-bert-v2": Family("jina-bert-v2", _jina_2, _jina_2_file, authority="twin"),
    "jina-bert-v2-code": Family("jina-bert-v2", lambda: _jina_2(code=True), _jina_2_file, authority="twin"),
    "jina-bert-v3": Family("jina-bert-v3", _jina_3, _jina_3_file),
    "modern-bert": Family("modern-bert", _modern, _modern_file),
    "modern-bert-silu": Family("modern-bert", lambda: _modern(hidden_activation="silu"), _modern_file),
    "modern-bert-reranker": Family("modern-bert", _modern_reranker, _modern_file),
    "modern-bert-mean": Family("modern-bert", lambda: _modern_reranker(classifier_pooling="mean"), _modern_file),
    "eurobert": Family("eurobert", _eurobert, _eurobert_file),
    "gemma-embedding": Family("gemma-embedding", _gemma, _gemma_file, norm_mean=0.0),
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
