"""tokenizer.json of models that make vectors of texts: WordPiece (BERT's kind), and unigrams (XLM-RoBERTa's)."""

from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from powerinfer_cli.convert.checkpoint import Checkpoint
from powerinfer_cli.convert.vocabulary.bpe import NAME, tokens_of
from powerinfer_cli.convert.vocabulary.tokens import MOST_TOKENS, TokenKind
from powerinfer_cli.errors import PowerInferError

__all__ = ["is_unigram", "is_wordpiece", "unigram_keys", "wordpiece_keys"]

CONTINUED = "##"
BEGINNING = "▁"
LEAST_SCORE = -10000.0


def is_wordpiece(fast: Mapping[str, Any]) -> bool:
    model = fast.get("model")
    return isinstance(model, dict) and model.get("type") == "WordPiece" and isinstance(model.get("vocab"), dict)


def is_unigram(fast: Mapping[str, Any]) -> bool:
    model = fast.get("model")
    return isinstance(model, dict) and model.get("type") == "Unigram" and isinstance(model.get("vocab"), list)


def wordpiece_keys(checkpoint: Checkpoint, fast: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Pieces that begin a word have ▁ before them in the file, and others nothing, where the checkpoint has ##."""
    if fast["model"].get("continuing_subword_prefix", CONTINUED) != CONTINUED:
        raise PowerInferError(f"{checkpoint.folder / NAME}: pieces that go on with a word have another prefix than ##")
    tokens, kinds = tokens_of(checkpoint, checkpoint.folder / NAME, fast["model"]["vocab"], fast, settings)
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "bert-bge",
        "tokenizer.ggml.tokens": [
            text
            if kind == TokenKind.CONTROL
            else text.removeprefix(CONTINUED)
            if text.startswith(CONTINUED)
            else BEGINNING + text
            for text, kind in zip(tokens, kinds, strict=True)
        ],
        "tokenizer.ggml.token_type": kinds,
    }
    for step in _steps(fast.get("normalizer"), "normalizers"):
        if step.get("type") == "Lowercase":
            keys["tokenizer.ggml.normalizer.lowercase"] = True
        elif step.get("type") == "StripAccents":
            keys["tokenizer.ggml.normalizer.strip_accents"] = True
        elif step.get("type") == "BertNormalizer":
            for name in ("lowercase", "strip_accents"):
                if isinstance(step.get(name), bool):
                    keys[f"tokenizer.ggml.normalizer.{name}"] = step[name]
    return keys


def unigram_keys(checkpoint: Checkpoint, fast: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Raises PowerInferError: the file is damaged, or its tokens are not the model's."""
    path, pairs = checkpoint.folder / NAME, fast["model"]["vocab"]
    fine = all(
        isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], int | float) for p in pairs
    )
    if not fine or len(pairs) > MOST_TOKENS:
        raise PowerInferError(f"{path}: a unigram is no pair of a text and a score")
    vocab = {text: number for number, (text, _) in enumerate(pairs)}
    tokens, kinds = tokens_of(checkpoint, path, vocab, fast, settings)
    unknown = fast["model"].get("unk_id")
    scores = [float(score) for _, score in pairs] + [LEAST_SCORE] * (len(tokens) - len(pairs))
    steps = [*_steps(fast.get("pre_tokenizer"), "pretokenizers"), *_steps(fast.get("normalizer"), "normalizers")]
    spaces = next((step for step in steps if step.get("type") == "Metaspace"), {})
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.add_space_prefix": spaces.get("prepend_scheme", "always") != "never",
        "tokenizer.ggml.remove_extra_whitespaces": any(
            step.get("type") in ("WhitespaceSplit", "Strip", "Replace") for step in steps
        ),
    }
    if isinstance(unknown, int) and 0 <= unknown < len(kinds):
        kinds[unknown] = TokenKind.UNKNOWN
        keys["tokenizer.ggml.unknown_token_id"] = unknown
    packed = next((step.get("precompiled_charsmap") for step in steps if step.get("type") == "Precompiled"), None)
    if isinstance(packed, str) and packed:
        try:
            keys["tokenizer.ggml.precompiled_charsmap"] = np.frombuffer(b64decode(packed, validate=True), np.uint8)
        except ValueError as error:
            raise PowerInferError(f"{path}: precompiled_charsmap is no base64") from error
    return keys


def _steps(step: Any, inner: str) -> Iterator[dict[str, Any]]:
    """A step, or those within it."""
    if isinstance(step, dict):
        steps = step.get(inner)
        yield from (one for one in steps if isinstance(one, dict)) if isinstance(steps, list) else iter((step,))
