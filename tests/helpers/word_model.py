"""A model that writes what a table says: each token names the next. Small, quick to load, and sparse (PWRI).

Embeddings are one-hot, attention and FFN write nothing, and the output matrix is the table, over weak noise: a token
with an entry is followed by it at any ordinary temperature; one without is followed by chance.
"""

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from tests.helpers.model_file import ModelFile

STORY = "Once upon a time there was one fox.\n"  # and again, without end
ANSWER = "Hello friend!"  # what the assistant says, and then ends
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_STORY = ["▁Once", "▁upon", "▁a", "▁time", "▁there", "▁was", "▁one", "▁fox", ".", "<0x0A>"]
_PATHS = [
    ["<s>", *_STORY, "▁Once"],
    ["<|assistant|>", "▁Hello", "▁friend", "!", "</s>"],
    ["▁caf", "<0xC3>", "<0xA9>", "!"],  # a character of two tokens
    ["▁end", "</s>"],
    ["▁then", "▁Us", "er", ":", "▁Ask"],  # a reverse prompt over three tokens
    ["▁again", "▁again"],
    ["▁clear", "<0x1B>", "[", "2", "J", "</s>"],
]
_CONTROL = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
_LEVEL = 14.0


@cache
def vocabulary() -> list[str]:
    words = {token for path in _PATHS for token in path if not token.startswith("<")}
    # SentencePiece builds a word from two pieces at a time: all beginnings have to be there.
    beginnings = {word[:n] for word in words for n in range(2, len(word) + 1)}
    letters = [chr(code) for code in range(0x21, 0x7F)]
    special = ["<unk>", *_CONTROL]
    return [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, *sorted(beginnings - set(letters))]


def token_id(token: str) -> int:
    return vocabulary().index(token)


def _types(tokens: list[str]) -> np.ndarray:
    """GGUF's: 1 normal, 2 unknown, 3 control, 6 byte."""
    return np.array([2] + [3 if t in _CONTROL else 6 if t.startswith("<0x") else 1 for t in tokens[1:]], np.int32)


@cache
def word_model() -> ModelFile:
    tokens = vocabulary()
    n, n_embd, n_ff = len(tokens), -(-len(tokens) // 8) * 8, 32
    rng = np.random.default_rng(0)
    table = rng.standard_normal((n, n_embd)).astype(np.float32)
    table[[token_id("</s>"), token_id("<s>")]] -= 6  # chance does not end a text
    for path in _PATHS:
        for now, after in pairwise(path):
            table[token_id(after), token_id(now)] = _LEVEL
    zeros, ones = np.zeros((n_embd, n_embd), np.float32), np.ones(n_embd, np.float32)
    tensors: dict[str, np.ndarray] = {
        "token_embd.weight": np.eye(n, n_embd, dtype=np.float32),
        "output_norm.weight": ones,
        "output.weight": table / np.sqrt(np.float32(n_embd)),
        **{f"blk.0.{name}.weight": zeros for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
        "blk.0.attn_norm.weight": ones,
        "blk.0.ffn_norm.weight": ones,
        "blk.0.ffn_gate.weight": rng.standard_normal((n_ff, n_embd)).astype(np.float32),
        "blk.0.ffn_up.weight": rng.standard_normal((n_ff, n_embd)).astype(np.float32),
        "blk.0.ffn_down.weight": np.zeros((n_embd, n_ff), np.float32),
    }
    metadata: dict[str, Any] = {
        "general.name": "words",
        "llama.context_length": 128,
        "llama.embedding_length": n_embd,
        "llama.block_count": 1,
        "llama.feed_forward_length": n_ff,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array([float(len(token)) for token in tokens], np.float32),
        "tokenizer.ggml.token_type": _types(tokens),
        "tokenizer.chat_template": TEMPLATE,
    }
    predictor = (rng.standard_normal((4, n_embd)).astype(np.float32), rng.standard_normal((n_ff, 4)).astype(np.float32))
    return ModelFile("llama", metadata, tensors).sparsified([predictor])


def with_metadata(model: ModelFile, **changes: Any) -> ModelFile:
    """Tokenizer keys; `__` stands for a dot, None drops a key."""
    named = {f"tokenizer.{name.replace('__', '.')}": value for name, value in changes.items()}
    merged = {**model.metadata, **named}
    return replace(model, metadata={key: value for key, value in merged.items() if value is not None})
