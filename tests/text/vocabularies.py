"""Small vocabularies, always the same, whose ids under llama.cpp are recorded in data/llama_cpp_ids.json.gz.

The byte-level one learned its merges from whole lines, without a pre-tokenizer, so it has tokens across every boundary
that a pre-tokenizer may or may not cut at; it is re-labelled with each `tokenizer.ggml.pre`.
"""

from collections import Counter
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from powerinfer_cli.text.pretokenizers import known_pretokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"

TRAINING_TEXT = """\
The quick brown fox didn't jump over the lazy dog; it's what she'd've said: "I'LL GO!" Don't you think they're here?
In 1984 there were 1234567 apples, 12.5% of them red... (see https://example.com/a/b?c=1&d=2) and 3,000 others.
def add(self, x):\n\n    return self.x + x  # camelCase, snake_case\n\t\tif x >= 10:\r\n        print("x = %d" % x)
The story of the little bear and the other little bear: once upon a time there was a bear who was not there at all.
Être ou ne pas être, là est la question; Größe, straße, naïve façade. e\u0301te\u0301 voila\u0300 man\u0303ana
Русский язык и русская литература. Η ελληνική γλώσσα. 你好世界,你好吗?我很好。ひらがなとカタカナ 한국어 한국 안녕
हिन्दी में नमस्ते दुनिया, मेरा नाम राम है। ไทยแลนด์ ประเทศไทย مرحبا بالعالم שלום עולם 😀😀 👍🏽 👨\u200d👩\u200d👧 🏳️\u200d🌈
  two   three    four     and\n\n\n\n   lines   \n \n \n\t\t\t\n   !!! ??? ... --- === *** ((())) [[]] {{}} $$ ++
000 111 222 ١٢٣٤ The quick brown fox didn't jump over 1984 lazy dogs; it's what they've said in the story of 12345
camelCase camelCase|camelCase camelCase|'sabc'sabc|'sabc'sabc|!\n!\n|!\n!\n|a\n\nb|c\n\nd|a  1a  1|a  1a  1|w 12 12
w 12 12|w 12 12|`x``x`|`x``x`|        x        x|        x        x|\u0915\u093f\u0915\u093f|\u0915\u093f\u0915\u093f
"""


def learn_merges(lines: list[list[str]], count: int) -> list[tuple[str, str]]:
    """Up to `count` most frequent pairs, merged one after another; ties go to the pair that sorts first."""
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs = Counter(pair for line in lines for pair in pairwise(line))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        merges.append(best)
        lines = [_merge(line, best) for line in lines]
    return merges


def _merge(line: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    i = 0
    while i < len(line):
        if tuple(line[i : i + 2]) == pair:
            merged.append(line[i] + line[i + 1])
            i += 2
        else:
            merged.append(line[i])
            i += 1
    return merged


def byte_table() -> list[str]:
    """GPT-2's visible character for each byte, written out independently of the package."""
    hidden = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
    return [chr(0x100 + hidden.index(byte)) if byte in hidden else chr(byte) for byte in range(256)]


@cache
def _byte_level_merges() -> tuple[tuple[str, str], ...]:
    table = byte_table()
    lines = [[table[byte] for byte in line.encode()] for line in TRAINING_TEXT.split("|")]
    return tuple(learn_merges(lines, 700))


def byte_level(pre: str, **extra: Any) -> dict[str, Any]:
    """Metadata of the byte-level vocabulary, under the pre-tokenizer `pre`."""
    merges = _byte_level_merges()
    special = {
        "<|endoftext|>": CONTROL,
        "<s>": CONTROL,
        "</s>": CONTROL,
        "<|im_start|>": CONTROL,
        "<|im_end|>": CONTROL,
        "<tool>": USER_DEFINED,
        "<tool><tool>": USER_DEFINED,
        "ool><": USER_DEFINED,
        "\t\t\t\t": USER_DEFINED,
    }
    learned = dict.fromkeys("".join(pair) for pair in merges)
    tokens = [*special, *byte_table(), *learned]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": _types([*special.values(), *[NORMAL] * (len(tokens) - len(special))]),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **extra,
    }


@cache
def _spm_merges() -> tuple[tuple[str, str], ...]:
    words = TRAINING_TEXT.replace(" ", f" {SPACE}").split(" ")
    return tuple(learn_merges([list(word) for word in words], 300))


def sentencepiece(bridges: tuple[str, ...] = (), **extra: Any) -> dict[str, Any]:
    """Metadata of the SentencePiece vocabulary; `bridges` are more pieces, better than the learned ones."""
    special = {
        "<unk>": UNKNOWN,
        "<s>": CONTROL,
        "</s>": CONTROL,
        **{f"<0x{byte:02X}>": BYTE for byte in range(256)},
        "<|im_start|>": CONTROL,
        "<|im_end|>": CONTROL,
        "<|end|>": CONTROL,
        "<|endoftext|>": CONTROL,
        "<tool>": USER_DEFINED,
        "\n\n": USER_DEFINED,
    }
    learned = dict.fromkeys("".join(pair) for pair in _spm_merges())
    characters = dict.fromkeys(sorted(set(TRAINING_TEXT) - set("\n\r\t 🏽世ש") | {SPACE}))
    pieces = [piece for piece in [*bridges, *learned, *characters] if piece not in special]
    tokens = [*special, *pieces]
    # Equal scores here and there, so that ties between neighbours are part of what is compared.
    scores = [0.0] * len(special) + [-float(i // 3) for i in range(len(pieces))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array(scores, dtype=np.float32),
        "tokenizer.ggml.token_type": _types([*special.values(), *[NORMAL] * len(pieces)]),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **extra,
    }


def _types(kinds: list[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(kinds, dtype=np.int32)


def _escaped_bpe() -> dict[str, Any]:
    """The SentencePiece vocabulary with its merges, for pre-tokenizers that escape spaces."""
    metadata = sentencepiece()
    del metadata["tokenizer.ggml.scores"]
    metadata["tokenizer.ggml.merges"] = [" ".join(pair) for pair in _spm_merges() if "\n" not in "".join(pair)]
    return metadata


@cache
def all_vocabularies() -> dict[str, dict[str, Any]]:
    """name -> metadata, everything that is recorded."""
    escaped = {"gemma4", "granite-embed-multi-311m", "sarvam-moe"}
    bridges = (f",{SPACE}", f"e{SPACE}t", f"{SPACE}a{SPACE}", f"]{SPACE}", f"e{SPACE}")
    return {
        **{f"bpe/{pre}": byte_level(pre) for pre in known_pretokenizers() if pre not in escaped},
        **{
            f"bpe/{pre}": _escaped_bpe() | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre}
            for pre in sorted(escaped)
        },
        "gemma4": _escaped_bpe() | {"tokenizer.ggml.model": "gemma4"},
        "bpe/no-pre": {k: v for k, v in byte_level("").items() if k != "tokenizer.ggml.pre"},
        "bpe/bos-eos": byte_level(
            "gpt-2", **{"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
        ),
        "bpe/space-prefix": byte_level("gpt-2", **{"tokenizer.ggml.add_space_prefix": True}),
        "spm": sentencepiece(),
        "spm/bridges": sentencepiece(bridges),
        "spm/phi-3": sentencepiece(**{"general.name": "Phi-3 mini"}),
        "spm/no-prefix": sentencepiece(**{"tokenizer.ggml.add_space_prefix": False}),
        "spm/eos": sentencepiece(**{"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True}),
        "spm/clean": sentencepiece(**{"tokenizer.ggml.remove_extra_whitespaces": True}),
    }


_ENDINGS = {
    "gemma": "<bos> *<eos> <start_of_turn> <end_of_turn> <unk> </s>",
    "gemma4": "<bos> *<eos> <|turn> <turn|> <|tool_response> </s>",
    "phi-3": "<s> *</s> <|endoftext|> <|assistant|> <|end|> <|user|>",
    "phi-4": "<|im_start|> *<|im_end|> <|im_sep|> <|endoftext|> <|fim_prefix|> <|fim_suffix|>",
    "command-r": "<BOS_TOKEN> *<|END_OF_TURN_TOKEN|> <|START_OF_TURN_TOKEN|> <EOS_TOKEN> <PAD>",
    "exaone": "[BOS] *[|endofturn|] <|endoftext|> [PAD] [|user|]",
    "granite": "<|start_of_role|> *<|end_of_text|> <|end_of_role|> <fim_prefix> <fim_pad> <reponame>",
    "glm4": "[gMASK] *<|endoftext|> <sop> <|user|> <|observation|> <|code_middle|>",
    "smollm3": "<|begin_of_text|> *<|im_end|> <|end_of_text|> <|eot_id|> <|eom_id|>",
    "seed": "<seed:bos> *<seed:eos> <seed:pad> <[end▁of▁sentence]>",
    "hunyuan": "<｜hy_begin▁of▁sentence｜> *<｜hy_place▁holder▁no▁2｜> <｜hy_User｜> <｜hy_Assistant｜>",
    "mistral": "<s> *</s> [INST] [/INST] [SYSTEM_PROMPT] [PREFIX] [EOS]",
    "nemotron": "<s> *</s> <extra_id_0> <extra_id_1> <|im_end|> <EOT>",
    "harmony": "<|startoftext|> *<|return|> <|end|> <|call|> <|channel|> <|message|> <|start|> <|endoftext|>",
    "solar": "<|begin|> *<|end|> <|flush|> <|calls|> <|content|>",
    "plamo": "<|plamo:bos|> *<|plamo:eos|> <|plamo:unk|> </s>",
    "minicpm": "<s> *</s> <用户> <AI> <|im_end|> <|tool_call|>",
    "deepseek": "<｜begin▁of▁sentence｜> *<｜end▁of▁sentence｜> <｜User｜> <|EOT|> <｜fim▁begin｜> <｜fim▁hole｜>",
    "starcoder2": "*<|endoftext|> <fim_prefix> <fim_pad> <repo_name> <file_sep> <|repo_name|> <|file_sep|>",
    "kimi": "[BOS] *[EOS] <|im_end|> [EOT] [PAD] <|im_middle|>",
    "minimax": "]~!b[ *[e~[ ]~b] <end_of_utterance> _<EOT>",
}
"""Special tokens as families have them, of which * is EOS."""


def ending_vocabularies() -> dict[str, dict[str, Any]]:
    """family/kind -> metadata of a small vocabulary, in which the tokens are control tokens or, wrongly, normal."""
    found = {}
    for family, words in _ENDINGS.items():
        special = words.split(" ")
        eos = next(i for i, word in enumerate(special) if word[0] == "*")
        tokens = [*(word.removeprefix("*") for word in special), *byte_table()]
        for name, kind in (("control", CONTROL), ("normal", NORMAL)):
            found[f"{family}/{name}"] = {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": "gpt-2",
                "tokenizer.ggml.tokens": tokens,
                "tokenizer.ggml.token_type": _types([*[kind] * len(special), *[NORMAL] * 256]),
                "tokenizer.ggml.merges": ["a b"],
                "tokenizer.ggml.bos_token_id": 0,
                "tokenizer.ggml.eos_token_id": eos,
            }
    return found
