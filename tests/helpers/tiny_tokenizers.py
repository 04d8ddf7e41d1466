"""Tiny tokenizers as checkpoints have them: files of a folder, by name."""

import json
import struct
from typing import Any

TEXT = "the cat sat on the mat. The dog didn't see 123 cats; naïve café?\n\n  two  spaces"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern of Mistral's tekken.json."""
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def byte_level(n_vocab: int = 300, *, pre: dict[str, Any] = BYTE_LEVEL, **model: Any) -> dict[str, str]:
    """BPE of bytes, trained on a sentence by the `tokenizers` package."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([TEXT] * 4, trainer)
    fast = json.loads(made.to_str())
    fast["pre_tokenizer"] = pre
    fast["model"] |= model
    settings = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "chat_template": "{{ messages[0].content }}"}
    return {"tokenizer.json": json.dumps(fast), "tokenizer_config.json": json.dumps(settings)}


def sentencepiece(pieces: list[tuple[str, float, int]], *, prefix: bool = True) -> bytes:
    """tokenizer.model of pieces: text, score, kind."""

    def counted(field: int, raw: bytes) -> bytes:
        return _varint(field << 3 | 2) + _varint(len(raw)) + raw

    made = b""
    for text, score, kind in pieces:
        made += counted(1, counted(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + _varint(kind))
    return made + counted(3, counted(1, b"identity") + (b"" if prefix else b"\x18\x00"))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def pieces(words: str = "▁the ▁cat s at ▁ t h e c a") -> list[tuple[str, float, int]]:
    """As Llama 2 has them: unknown, begin and end, all bytes, then words, the first the best."""
    first = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    raw = [(f"<0x{i:02X}>", 0.0, 6) for i in range(256)]
    return first + raw + [(word, -float(i), 1) for i, word in enumerate(words.split())]
