"""tokenizer.json with byte pair encoding: of bytes (GPT-2's kind), or of characters with bytes to fall back on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from powerinfer_cli.convert.checkpoint import Checkpoint
from powerinfer_cli.convert.conversion import Vocabulary
from powerinfer_cli.convert.vocabulary.pretokenizers import recognised
from powerinfer_cli.convert.vocabulary.tokens import MOST_TOKENS, TokenKind, added_tokens, n_tokens
from powerinfer_cli.errors import PowerInferError

__all__ = ["NAME", "byte_level_keys", "escaped_keys", "is_byte_level", "is_escaped", "tokens_of"]

NAME = "tokenizer.json"
SPACE = "Ġ"  # how a space in a merge is written
VISIBLE = frozenset(
    ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>')
)
"""Of Gemma 4's special tokens, those that a reader of its answers has to see."""


def is_byte_level(fast: Mapping[str, Any]) -> bool:
    """Whether its words are bytes in GPT-2's alphabet."""
    return _is_bpe(fast) and _has(fast.get("pre_tokenizer"), "ByteLevel", "pretokenizers")


def is_escaped(fast: Mapping[str, Any]) -> bool:
    """Whether its spaces are written ▁, and unknown characters as bytes."""
    return _is_bpe(fast) and fast["model"].get("byte_fallback") is True


def _is_bpe(fast: Mapping[str, Any]) -> bool:
    model = fast.get("model")
    return isinstance(model, dict) and model.get("type", "BPE") == "BPE" and isinstance(model.get("vocab"), dict)


def _has(step: Any, kind: str, inner: str) -> bool:
    """Whether a step, or one within it, is of a kind."""
    if not isinstance(step, dict):
        return False
    steps = step.get(inner)
    return step.get("type") == kind or (isinstance(steps, list) and any(_has(one, kind, "") for one in steps))


def byte_level_keys(
    checkpoint: Checkpoint, path: Path, fast: Mapping[str, Any], settings: Mapping[str, Any], wishes: Vocabulary
) -> tuple[dict[str, Any], list[str]]:
    """path: of what `fast` was read from. Raises PowerInferError: it is damaged, or its tokens are not the model's."""
    tokens, kinds = tokens_of(checkpoint, path, fast["model"]["vocab"], fast, settings)
    pre, notes = recognised(path, fast, settings, wishes.pre)
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [_written(merge) for merge in _merges(path, fast)] or None,
    }
    return keys, notes


def escaped_keys(
    checkpoint: Checkpoint, fast: Mapping[str, Any], settings: Mapping[str, Any], *, merges: bool
) -> dict[str, Any]:
    """As a SentencePiece model, whose scores say what is merged first; merges: with these themselves, as Gemma 4."""
    path = checkpoint.folder / NAME
    tokens, kinds = tokens_of(checkpoint, path, fast["model"]["vocab"], fast, settings)
    pairs = _merges(path, fast)
    ranks = {first + second: rank for rank, (first, second) in reversed(list(enumerate(pairs)))}
    for i, text in enumerate(tokens):
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            kinds[i] = TokenKind.BYTE
        elif merges and text in VISIBLE:
            kinds[i] = TokenKind.USER_DEFINED
        elif kinds[i] == TokenKind.NORMAL and text == fast["model"].get("unk_token"):
            kinds[i] = TokenKind.UNKNOWN
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gemma4" if merges else "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [-float(ranks.get(text, len(ranks))) for text in tokens],
        "tokenizer.ggml.add_space_prefix": _prefixes_space(fast),
    }
    if merges:
        return keys | {
            "tokenizer.ggml.merges": [" ".join(pair) for pair in pairs] or None,
            "tokenizer.ggml.add_bos_token": True,
        }
    return keys | {"tokenizer.ggml.pre": "default"}


def _prefixes_space(fast: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text: by the normalizer, or by what escapes spaces."""
    normalizer, pre = fast.get("normalizer"), fast.get("pre_tokenizer")
    if _has(normalizer, "Prepend", "normalizers"):
        return True
    return isinstance(pre, dict) and pre.get("type") == "Metaspace" and pre.get("prepend_scheme") != "never"


def tokens_of(
    checkpoint: Checkpoint, path: Path, vocab: Mapping[str, Any], fast: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[list[str], list[int]]:
    """Texts and kinds by number, of a vocabulary and of what is added to it; numbers that no token has are unused.

    Raises PowerInferError: numbers that are none, or beyond the model's.
    """
    added = added_tokens(path, fast, settings)
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < MOST_TOKENS for i in vocab.values()):
        raise PowerInferError(f"{path}: the vocabulary has numbers that are none, or too large")
    count = n_tokens(checkpoint, path, max([*vocab.values(), *(token.id for token in added)], default=-1))
    tokens, kinds = [f"[PAD{i}]" for i in range(count)], [int(TokenKind.UNUSED)] * count
    for text, number in vocab.items():
        tokens[number], kinds[number] = text, TokenKind.NORMAL
    for token in added:
        tokens[token.id], kinds[token.id] = token.stored, token.kind
    return tokens, kinds


def _merges(path: Path, fast: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs, which older files write with a space between."""
    found = fast["model"].get("merges") or []
    if not isinstance(found, list) or len(found) > MOST_TOKENS:
        raise PowerInferError(f"{path}: the merges are no list")
    pairs = [
        tuple(one.split(" ", 1)) if isinstance(one, str) else tuple(one) if isinstance(one, list) else ()
        for one in found
    ]
    if not all(len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in pairs):
        raise PowerInferError(f"{path}: a merge is no pair of texts")
    return [(first, second) for first, second in pairs]


def _written(merge: tuple[str, str]) -> str:
    return " ".join(part.replace(" ", SPACE) for part in merge)
