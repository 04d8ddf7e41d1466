"""tokenizer.model of SentencePiece: read as the protocol buffer that it is, by hand; nothing in it is executed.

Format (sentencepiece_model.proto): field 1, repeated, is a piece with its text (1), its score (2, float32) and its kind
(3: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte); field 3 says how texts are normalised, in it
field 3 whether a space is put before them.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerinfer_cli.convert.checkpoint import Checkpoint, read_json_file
from powerinfer_cli.convert.vocabulary.tokens import MOST_TOKENS, AddedToken, TokenKind, added_tokens, n_tokens
from powerinfer_cli.errors import PowerInferError

__all__ = ["MODEL", "sentencepiece_keys"]

MODEL = "tokenizer.model"
MOST_BYTES = 256 << 20
VARINT, FIXED64, COUNTED, FIXED32 = 0, 1, 2, 5
ADDED_SCORE, NO_SCORE = -1000.0, -10000.0


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    kind: TokenKind


class _CutShort(Exception):
    pass


def sentencepiece_keys(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Raises PowerInferError: the file is none of SentencePiece's, or its tokens are not the model's."""
    path = checkpoint.folder / MODEL
    pieces, prefix = _read(path)
    count = checkpoint.config.integer("vocab_size", default=len(pieces))
    count = n_tokens(checkpoint, path, min(count, len(pieces)) - 1)
    tokens = [piece.text for piece in pieces[:count]] + [f"[PAD{i}]" for i in range(len(pieces), count)]
    scores = [piece.score for piece in pieces[:count]] + [NO_SCORE] * (count - len(pieces))
    kinds = [int(piece.kind) for piece in pieces[:count]] + [int(TokenKind.UNUSED)] * (count - len(pieces))
    for token in _added(checkpoint.folder, settings):
        if token.id < count:
            tokens[token.id], scores[token.id], kinds[token.id] = token.stored, ADDED_SCORE, token.kind
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def _added(folder: Path, settings: Mapping[str, Any]) -> list[AddedToken]:
    """added_tokens.json, of older versions, then what tokenizer_config.json says, then tokenizer.json."""
    older = read_json_file(folder / "added_tokens.json") or {}
    fine = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < MOST_TOKENS for i in older.values())
    if not fine:
        raise PowerInferError(f"{folder / 'added_tokens.json'}: has numbers that are none, or too large")
    found = [AddedToken(number, text, False) for text, number in older.items()]
    found += added_tokens(folder / "tokenizer_config.json", None, settings)
    if not settings.get("added_tokens_decoder"):
        fast = read_json_file(folder / "tokenizer.json")
        found += added_tokens(folder / "tokenizer.json", fast, settings) if fast else []
    return found


def _read(path: Path) -> tuple[list[Piece], bool]:
    """Pieces, and whether a space is put before a text."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise PowerInferError(f"{path}: has {path.stat().st_size} bytes, too many for a tokenizer")
        raw = path.read_bytes()
    except OSError as error:
        raise PowerInferError(f"{path}: cannot be read: {error.strerror or error}") from error
    pieces: list[Piece] = []
    prefix = True
    try:
        for field, value in _fields(raw):
            if field == 1 and isinstance(value, bytes):
                pieces.append(_piece(value))
            elif field == 3 and isinstance(value, bytes):
                prefix = any(value != 0 for field, value in _fields(value) if field == 3) or not _names(value, 3)
    except (_CutShort, UnicodeDecodeError, ValueError, struct.error) as error:
        raise PowerInferError(f"{path}: not a tokenizer of SentencePiece's, or damaged") from error
    if not pieces or len(pieces) > MOST_TOKENS:
        raise PowerInferError(f"{path}: has {len(pieces)} pieces: not a tokenizer of SentencePiece's")
    return pieces, prefix


def _names(raw: bytes, wanted: int) -> bool:
    return any(field == wanted for field, _ in _fields(raw))


def _piece(raw: bytes) -> Piece:
    text, score, kind = "", 0.0, TokenKind.NORMAL
    for field, value in _fields(raw):
        if field == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif field == 2 and isinstance(value, bytes):
            score = struct.unpack("<f", value)[0]
        elif field == 3 and isinstance(value, int):
            kind = TokenKind(value)
    return Piece(text, score, kind)


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers of fields, with whole numbers, or bytes."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        kind = tag & 7
        if kind == VARINT:
            number, at = _varint(raw, at)
            yield tag >> 3, number
            continue
        if kind == COUNTED:
            size, at = _varint(raw, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise _CutShort
        if size > len(raw) - at:
            raise _CutShort
        yield tag >> 3, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise _CutShort
        byte = raw[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise _CutShort
