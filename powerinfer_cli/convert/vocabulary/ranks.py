"""Tokens as bytes with ranks, as tiktoken has them: lines of base64 and a number, or Mistral's tekken.json.

What is merged first is the pair whose bytes together have the lowest rank, so that ranks are all there is to know.
"""

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from powerinfer_cli.convert.checkpoint import read_json_file
from powerinfer_cli.convert.vocabulary.tokens import MOST_TOKENS
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.text.algorithms.bpe import byte_characters

__all__ = ["TEKKEN", "Tekken", "is_tiktoken", "merges_of", "read_tekken", "read_tiktoken", "visible"]

TEKKEN = "tekken.json"
Tekken = tuple[dict[bytes, int], list[str], str]
MOST_BYTES = 64 << 20
LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,9})\r?\n?")
# Of files of the first version, which do not list them (mistral-common).
SPECIAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)


def is_tiktoken(path: Path) -> bool:
    """By its first line, as a file of SentencePiece's may have the same name."""
    try:
        with path.open("rb") as file:
            return LINE.fullmatch(file.readline(1 << 12)) is not None
    except OSError:
        return False


def read_tiktoken(path: Path) -> dict[bytes, int]:
    """Ranks by token. Raises PowerInferError."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise PowerInferError(f"{path}: has {path.stat().st_size} bytes, too many for a tokenizer")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise PowerInferError(f"{path}: cannot be read: {error.strerror or error}") from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        found = LINE.fullmatch(line)
        if found is None:
            raise PowerInferError(f"{path}: line {number} is no token in base64 with its rank")
        ranks[_bytes(path, found[1], number)] = int(found[2])
    return _checked(path, ranks)


def read_tekken(folder: Path) -> Tekken | None:
    """Ranks by token, the special tokens, whose numbers come before all ranks, and the pattern of words; None where
    there is no such file. Raises PowerInferError.
    """
    path = folder / TEKKEN
    found = read_json_file(path)
    if found is None:
        return None
    told: Any = found.get("config")
    config: dict[str, Any] = told if isinstance(told, dict) else {}
    size, n_special = (_count(path, config, f"default_{name}") for name in ("vocab_size", "num_special_tokens"))
    entries, pattern = found.get("vocab"), config.get("pattern")
    if not isinstance(entries, list) or not isinstance(pattern, str) or len(entries) < size - n_special:
        raise PowerInferError(f"{path}: has no vocabulary of {size - n_special} tokens, or no pattern of words")
    ranks: dict[bytes, int] = {}
    for rank, entry in enumerate(entries[: max(0, size - n_special)]):
        text = entry.get("token_bytes") if isinstance(entry, dict) and entry.get("rank") == rank else None
        if not isinstance(text, str):
            raise PowerInferError(f"{path}: token {rank} of the vocabulary has no bytes, or another rank")
        ranks[_bytes(path, text.encode(), rank)] = rank
    return _checked(path, ranks), _special(path, found.get("special_tokens"), n_special), pattern


def _count(path: Path, config: Mapping[str, Any], name: str) -> int:
    found = config.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= MOST_TOKENS:
        raise PowerInferError(f"{path}: config.{name} is {str(found)[:40]}")
    return found


def _special(path: Path, entries: Any, count: int) -> list[str]:
    listed = entries if entries is not None else [{"token_str": text} for text in SPECIAL[:count]]
    fits = isinstance(listed, list) and len(listed) <= count and all(isinstance(entry, dict) for entry in listed)
    texts = [entry.get("token_str") for entry in listed] if fits else [None]
    if not all(isinstance(text, str) for text in texts):
        raise PowerInferError(f"{path}: special_tokens is no list of at most {count} tokens")
    return [*texts, *(f"<SPECIAL_{i}>" for i in range(len(texts), count))]


def _bytes(path: Path, text: bytes, number: int) -> bytes:
    try:
        return b64decode(text, validate=True)
    except Error as error:
        raise PowerInferError(f"{path}: token {number} is not base64") from error


def _checked(path: Path, ranks: dict[bytes, int]) -> dict[bytes, int]:
    if len(set(ranks.values())) < len(ranks) or len(ranks) > MOST_TOKENS or not all(ranks):
        raise PowerInferError(f"{path}: two tokens have one rank, one is empty, or there are too many")
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise PowerInferError(f"{path}: lacks tokens of single bytes")
    return ranks


def visible(token: bytes) -> str:
    """In GPT-2's alphabet."""
    characters = byte_characters()
    return "".join(characters[byte] for byte in token)


def merges_of(ranks: Mapping[bytes, int]) -> list[list[str]]:
    """Every pair of tokens that is one together, the best first; of one token's the pair of lower ranks."""
    found = []
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [pair for pair in parts if pair[0] in ranks and pair[1] in ranks]
        found += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return [[visible(first), visible(second)] for first, second in found]
