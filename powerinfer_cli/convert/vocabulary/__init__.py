"""Tokenizers of checkpoints to the keys of a file: of which kind, tokens, merges or scores, tokens with a meaning."""

from typing import Any

import numpy as np

from powerinfer_cli.convert.checkpoint import Checkpoint, read_json_file
from powerinfer_cli.convert.conversion import Vocabulary
from powerinfer_cli.convert.vocabulary.bpe import NAME, byte_level_keys, escaped_keys, is_byte_level, is_escaped
from powerinfer_cli.convert.vocabulary.encoders import is_unigram, is_wordpiece, unigram_keys, wordpiece_keys
from powerinfer_cli.convert.vocabulary.sentencepiece import MODEL, sentencepiece_keys
from powerinfer_cli.convert.vocabulary.special import special_keys
from powerinfer_cli.convert.vocabulary.stand_ins import stand_in
from powerinfer_cli.errors import PowerInferError

__all__ = ["vocabulary_keys"]


def vocabulary_keys(checkpoint: Checkpoint, wishes: Vocabulary) -> tuple[dict[str, Any], list[str]]:
    """Keys, and notes for the user.

    Raises:
        PowerInferError: the folder holds no tokenizer, one of a kind that is not known, or one that does not fit the
            model.
    """
    folder = checkpoint.folder
    path = folder / NAME
    fast = read_json_file(path)
    settings = read_json_file(folder / "tokenizer_config.json") or {}
    found = stand_in(checkpoint, settings) if fast is None else None
    if found is not None:
        path, fast, settings = found.path, found.fast, found.settings
    notes: list[str] = []
    if fast is not None and is_byte_level(fast):
        keys, notes = byte_level_keys(checkpoint, path, fast, settings, wishes)
    elif fast is not None and is_wordpiece(fast):
        keys = wordpiece_keys(checkpoint, fast, settings)
    elif fast is not None and is_unigram(fast):
        keys = unigram_keys(checkpoint, fast, settings)
    elif (folder / MODEL).exists() and not wishes.merges:
        keys = sentencepiece_keys(checkpoint, settings)
    elif fast is not None and is_escaped(fast):
        keys = escaped_keys(checkpoint, fast, settings, merges=wishes.merges)
    else:
        raise _unknown(checkpoint, fast)
    arrays = {"tokenizer.ggml.token_type": np.int32, "tokenizer.ggml.scores": np.float32}
    keys |= {key: np.array(keys[key], kind) for key, kind in arrays.items() if key in keys}
    if "type_vocab_size" in checkpoint.config:
        keys["tokenizer.ggml.token_type_count"] = checkpoint.config.integer("type_vocab_size")
    return keys | special_keys(checkpoint, fast, settings, keys, wishes), notes


def _unknown(checkpoint: Checkpoint, fast: dict[str, Any] | None) -> PowerInferError:
    if fast is None:
        slow = [name for name in ("vocab.json", "vocab.txt") if (checkpoint.folder / name).exists()]
        there = f", only {slow[0]}, which transformers' AutoTokenizer saves anew as tokenizer.json" if slow else ""
        return PowerInferError(f"{checkpoint.folder}: has no tokenizer: neither tokenizer.json nor {MODEL}{there}")
    model = fast.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    return PowerInferError(
        f"{checkpoint.folder / 'tokenizer.json'}: tokenizers of type {str(kind)[:40]!r} are not known here; known are "
        f"byte-level BPE, BPE with byte fallback, WordPiece, Unigram, and SentencePiece's {MODEL}"
    )
