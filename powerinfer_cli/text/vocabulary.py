"""A GGUF's vocabulary: token texts, their kinds and scores, merges, checked on reading.

Keys are those of the GGUF specification under `tokenizer.ggml.`. What a file may leave out, and what stands for it
then, follows llama.cpp.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import Strings

from .metadata import Metadata, number_array, string, strings
from .pretokenizers import PreTokenizer, known_pretokenizers, pretokenizer
from .text_index import TextIndex

__all__ = ["BYTE", "CONTROL", "NORMAL", "UNKNOWN", "USER_DEFINED", "Vocabulary", "read_vocabulary"]

KNOWN_MODELS = ("llama", "gpt2", "gemma4", "bert", "t5")
"""SentencePiece, byte-level BPE, BPE with escaped spaces, WordPiece, unigrams."""
FOREIGN_MODELS = {
    "whitespace": "words, of models that only embed",
    "rwkv": "a trie of bytes, of RWKV",
    "plamo2": "PLaMo-2's unigrams",
    "hybriddna": "BPE with DNA in it",
    "none": "no vocabulary at all",
    "no_vocab": "no vocabulary at all",
}
"""Tokenizers of llama.cpp's that are not here."""
FOREIGN_PRETOKENIZERS = {"whitespace": "of models that only embed"}

UNKNOWN, UNUSED, NORMAL, CONTROL, USER_DEFINED, BYTE = (1 << i for i in range(6))
"""Kinds of tokens, bits of `Vocabulary.kinds`."""

# GGUF's token_type: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte. Anything else has no kind.
_KIND_OF_TYPE = np.array([0, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE], dtype=np.uint8)


@dataclass(frozen=True)
class Vocabulary:
    """What the metadata says about tokens, before any token is given a meaning."""

    model: str  # of KNOWN_MODELS
    pre: PreTokenizer | None  # of BPE
    pre_name: str
    name: str  # general.name
    tokens: Strings
    ids: TextIndex  # of tokens
    kinds: bytes  # [n_vocab]
    scores: npt.NDArray[np.float32]  # [n_vocab]
    merges: Strings
    notes: tuple[str, ...]  # what the user may want to know, one line each


def read_vocabulary(metadata: Metadata) -> Vocabulary:
    """The vocabulary in `metadata`; PowerInferError names the key that is missing or wrong."""
    model = string(metadata, "tokenizer.ggml.model")
    if model is None:
        raise PowerInferError("the metadata has no tokenizer.ggml.model: the file holds no vocabulary")
    if model not in KNOWN_MODELS:
        raise _unknown("tokenizer model", "model", model, FOREIGN_MODELS, KNOWN_MODELS)
    pre_name = string(metadata, "tokenizer.ggml.pre") or ""
    notes = []
    if model == "gpt2" and not pre_name:
        notes.append("the vocabulary names no pre-tokenizer (tokenizer.ggml.pre): using default; the text may suffer")
    byte_pairs = model in ("gpt2", "gemma4")
    pre = _pretokenizer("gemma4" if model == "gemma4" else pre_name or "default") if byte_pairs else None
    tokens, ids = _tokens(metadata)
    return Vocabulary(
        model=model,
        pre=pre,
        pre_name=pre_name,
        name=string(metadata, "general.name") or "",
        tokens=tokens,
        ids=ids,
        kinds=_kinds(metadata, len(tokens)),
        scores=_scores(metadata, len(tokens)),
        merges=Strings.of([]) if pre is None else _merges(metadata, pre),
        notes=tuple(notes),
    )


def _pretokenizer(name: str) -> PreTokenizer:
    try:
        return pretokenizer(name)
    except KeyError:
        raise _unknown("pre-tokenizer", "pre", name, FOREIGN_PRETOKENIZERS, known_pretokenizers()) from None


def _unknown(what: str, key: str, name: str, foreign: Mapping[str, str], known: Iterable[str]) -> PowerInferError:
    beginning = f"unknown {what} {name[:80]!r} in"
    if name in foreign:
        beginning = f"the {what} {name!r} ({foreign[name]}) is not supported, but it is"
    return PowerInferError(f"{beginning} tokenizer.ggml.{key}; known are {', '.join(known)}")


def _tokens(metadata: Metadata) -> tuple[Strings, TextIndex]:
    tokens = strings(metadata, "tokenizer.ggml.tokens")
    if not tokens:
        raise PowerInferError("the metadata has no tokenizer.ggml.tokens: the file holds no vocabulary")
    if (tokens.starts == tokens.ends).any():
        tokens = Strings.of(token or f"[EMPTY_{i}]" for i, token in enumerate(tokens))
    ids = TextIndex(tokens)
    pair = ids.first_pair()
    if pair is not None:
        message = f"tokenizer.ggml.tokens holds {tokens[pair[0]][:80]!r} twice, as ids {pair[0]} and {pair[1]}"
        raise PowerInferError(message)
    return tokens, ids


def _kinds(metadata: Metadata, count: int) -> bytes:
    types = number_array(metadata, "tokenizer.ggml.token_type", count)
    if types is None:
        return bytes([NORMAL]) * count
    if types.dtype.kind == "f":
        raise PowerInferError("the metadata array tokenizer.ggml.token_type should hold whole numbers")
    known = (types >= 0) & (types < len(_KIND_OF_TYPE))
    return _KIND_OF_TYPE[np.where(known, types, 0).astype(np.int64)].tobytes()


def _scores(metadata: Metadata, count: int) -> npt.NDArray[np.float32]:
    scores = number_array(metadata, "tokenizer.ggml.scores", count)
    if scores is None:
        return np.zeros(count, dtype=np.float32)
    scores = scores.astype(np.float32)
    if np.isnan(scores).any():
        raise PowerInferError("the metadata array tokenizer.ggml.scores holds a NaN")
    return scores


def _merges(metadata: Metadata, pre: PreTokenizer) -> Strings:
    merges = strings(metadata, "tokenizer.ggml.merges")
    if merges is None and not pre.merges_needed:
        return Strings.of([])
    if merges is None:
        raise PowerInferError("the metadata has no tokenizer.ggml.merges, which a BPE vocabulary needs")
    return merges
