"""Tokens by number, with their kinds: of the vocabulary itself, and those that were added to it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from powerinfer_cli.convert.checkpoint import Checkpoint
from powerinfer_cli.errors import PowerInferError

__all__ = ["MOST_TOKENS", "AddedToken", "TokenKind", "added_tokens", "looks_special", "n_tokens"]

MOST_TOKENS = 1 << 21


class TokenKind(IntEnum):
    """As `tokenizer.ggml.token_type` has them."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class AddedToken:
    """A token that is cut out of a text before anything else."""

    id: int
    text: str
    special: bool

    @property
    def kind(self) -> TokenKind:
        return TokenKind.CONTROL if self.special or looks_special(self.text) else TokenKind.USER_DEFINED

    @property
    def stored(self) -> str:
        """Of those that stand for text, spaces are spaces."""
        return self.text if self.kind is TokenKind.CONTROL else self.text.replace("▁", " ")


def looks_special(text: str) -> bool:
    """Some models do not say of tokens that they are special, though their form does; llama.cpp takes these."""
    if text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]"):
        return True
    ends = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return any(text.startswith(first) and text.endswith(last) for first, last in ends)


def added_tokens(path: Path, fast: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> list[AddedToken]:
    """Of tokenizer.json, and where there is none, of tokenizer_config.json. Raises PowerInferError."""
    if fast is not None:
        found = fast.get("added_tokens") or []
        entries = [(entry.get("id"), entry) for entry in _entries(path, found)]
    else:
        decoder = settings.get("added_tokens_decoder") or {}
        if not isinstance(decoder, dict):
            raise PowerInferError(f"{path}: added_tokens_decoder is no object")
        pairs = zip(decoder, _entries(path, list(decoder.values())), strict=True)
        entries = [(int(number) if number.isdecimal() else None, entry) for number, entry in pairs]
    return [_added(path, number, entry) for number, entry in entries]


def _entries(path: Path, found: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(found, list) or len(found) > MOST_TOKENS or not all(isinstance(entry, dict) for entry in found):
        raise PowerInferError(f"{path}: the added tokens are no list of objects")
    yield from found


def _added(path: Path, number: Any, entry: dict[str, Any]) -> AddedToken:
    text = entry.get("content")
    fine = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < MOST_TOKENS
    if not fine or not isinstance(text, str):
        raise PowerInferError(f"{path}: an added token has no number or no text: {str(entry)[:80]}")
    return AddedToken(number, text, entry.get("special") is True)


def n_tokens(checkpoint: Checkpoint, path: Path, highest: int) -> int:
    """Of the model, which may have more than the tokenizer knows. Raises PowerInferError: it has fewer."""
    count = checkpoint.config.integer("vocab_size", default=highest + 1)
    if not 0 < count <= MOST_TOKENS:
        checkpoint.config.fail(f"vocab_size is {count}")
    if highest >= count:
        raise PowerInferError(f"{path}: has a token {highest}, but the model's vocab_size is {count}")
    return count
