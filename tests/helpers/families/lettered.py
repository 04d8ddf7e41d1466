"""Tiny models of families whose tokens are letters, so that servers and chats can run on them."""

from dataclasses import replace

import numpy as np

from tests.helpers.families import tiny_family
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import N_VOCAB

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ<>/|_.,!?-", "\n", "▁"]
# As Qwen 3.6's: an answer's thoughts are left out later. Without tokens of their own, what opens it is 12 tokens more.
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def lettered(name: str) -> ModelFile:
    """The family's, with a tokenizer and a template."""
    file = tiny_family(name).file
    tokens = [*SPECIAL, *LETTERS, *(f"[{i}]" for i in range(N_VOCAB - len(SPECIAL) - len(LETTERS)))]
    types = [2, 3, 3, 3, 3] + [1] * (N_VOCAB - len(SPECIAL))
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array([-float(i) for i in range(N_VOCAB)], np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 4,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": CHAT,
    }
    return replace(file, metadata=file.metadata | metadata)
