"""Tokenizers of checkpoints: the file's tokenizer cuts texts as the checkpoint's own does."""

import json
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.convert.checkpoint import Checkpoint, Config
from powerinfer_cli.convert.conversion import Vocabulary
from powerinfer_cli.convert.vocabulary import vocabulary_keys
from powerinfer_cli.convert.vocabulary.pretokenizers import recognised
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.text import Tokenizer
from tests.helpers.tiny_tokenizers import BYTE_LEVEL, TEKKEN, TEXT, byte_level, pieces, sentencepiece

NO_REGEX = BYTE_LEVEL | {"use_regex": False}
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _row(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


DIGITS = {"type": "Digits", "individual_digits": True}
KNOWN = {
    "gpt-2": (BYTE_LEVEL, {}),
    "smollm": (_row(DIGITS, BYTE_LEVEL), {}),
    "llama-bpe": (_row(_split(LLAMA3), NO_REGEX), {"ignore_merges": True}),
    "tekken": (_row(_split(TEKKEN), NO_REGEX), {"ignore_merges": True}),
    "dbrx": (_row(_split(LLAMA3), NO_REGEX), {}),
    "qwen2": (_row(_split(LLAMA3.replace("{1,3}", "")), NO_REGEX), {}),
}


def _keys(folder: Path, files: dict[str, Any], config: dict[str, Any] | None = None) -> dict[str, Any]:
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    checkpoint = Checkpoint(folder, Config(folder / "config.json", config or {}), {})
    return vocabulary_keys(checkpoint, Vocabulary())[0]


@pytest.mark.parametrize("name", KNOWN)
def test_pretokenizers_are_recognised_by_what_they_do(name: str) -> None:
    pre, model = KNOWN[name]
    assert recognised(Path("tokenizer.json"), {"pre_tokenizer": pre, "model": model}, {}, ()) == (name, [])


def test_an_unknown_one_is_refused() -> None:
    fast = {"pre_tokenizer": _row(_split("."), NO_REGEX), "model": {}}
    with pytest.raises(PowerInferError, match="in a way that is not known here"):
        recognised(Path("tokenizer.json"), fast, {}, ())
    fast = {"pre_tokenizer": _row(_split("(("), NO_REGEX), "model": {}}
    with pytest.raises(PowerInferError, match="cannot be understood"):
        recognised(Path("tokenizer.json"), fast, {}, ())


@pytest.mark.parametrize("name", KNOWN)
def test_bytes_are_encoded_as_by_the_tokenizers_package(name: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Authority

    pre, model = KNOWN[name]
    files = byte_level(pre=pre, **model)
    keys = _keys(tmp_path, files, {"vocab_size": 310})
    ours, theirs = Tokenizer(keys), Authority.from_str(files["tokenizer.json"])
    for text in (TEXT, "a<|im_end|>b", "1234567 I'LL go", ""):
        assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False).ids
    assert keys["tokenizer.ggml.pre"] == name
    assert keys["tokenizer.ggml.token_type"][:2].tolist() == [3, 3]
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (0, 1, 310)
    assert keys["tokenizer.ggml.tokens"][-1] == "[PAD309]"
    assert keys["tokenizer.chat_template"] == "{{ messages[0].content }}"


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(prefix: bool, tmp_path: Path) -> None:
    settings = {"added_tokens_decoder": {"271": {"content": "<|user|>", "special": True}}, "add_bos_token": True}
    files = {
        "tokenizer.model": sentencepiece(pieces(), prefix=prefix),
        "tokenizer_config.json": json.dumps(settings),
        "added_tokens.json": json.dumps({"<extra>": 270}),
    }
    keys = _keys(tmp_path, files, {"vocab_size": 272, "bos_token_id": 1, "eos_token_id": 2})
    made = Tokenizer(keys)
    assert [keys["tokenizer.ggml.tokens"][i] for i in (0, 1, 3, 259, 269, 270, 271)] == [
        "<unk>", "<s>", "<0x00>", "▁the", "[PAD269]", "<extra>", "<|user|>",
    ]  # fmt: skip
    assert [keys["tokenizer.ggml.token_type"][i] for i in (0, 1, 3, 259, 269, 270, 271)] == [2, 3, 6, 1, 5, 4, 3]
    assert keys["tokenizer.ggml.scores"][260] == -1.0
    assert made.decode(made.encode("the cat<|user|>")) == "the cat"
    assert made.encode("the cat")[0] == 1  # the begin
    assert made.add_space_prefix is prefix


def test_merges_without_scores_become_scores(tmp_path: Path) -> None:
    """As TinyLlama's, where only tokenizer.json is there: what is merged first has the best score."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{i:02X}>": i + 3 for i in range(256)}
    vocab |= {text: 259 + i for i, text in enumerate(("▁", "t", "h", "e", "th", "the", "▁the"))}
    merges = [["t", "h"], ["th", "e"], ["▁", "the"]]
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": True, "unk_token": "<unk>"}
    fast = {"model": model, "normalizer": {"type": "Prepend", "prepend": "▁"}, "added_tokens": []}
    keys = _keys(tmp_path, {"tokenizer.json": json.dumps(fast)}, {"bos_token_id": 1, "eos_token_id": 2})
    assert keys["tokenizer.ggml.model"] == "llama"
    assert [keys["tokenizer.ggml.token_type"][i] for i in (0, 3, 263)] == [2, 6, 1]
    assert Tokenizer(keys).encode("the", add_special=False) == [265]


SEPARATED = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ],
    "pair": [],
    "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for i, name in ((2, "[CLS]"), (3, "[SEP]"))},
}
BERT_TEXTS = ("The cat sat, naïvely!", "unknownword cats", "", "中文 a")


def test_wordpiece(tmp_path: Path) -> None:
    """As the tokenizers package cuts it, without case and accents."""
    from tokenizers import Tokenizer as Authority

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "sat", ",", "naive", "##ly", "!", "中", "文", "a"]
    added = [
        {"id": i, "content": word, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False} for i, word in enumerate(words[:4])
    ]  # fmt: skip
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    fast = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": normalizer | {"strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": SEPARATED,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: i for i, word in enumerate(words)},
        },
    }
    settings = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    files = {"tokenizer.json": json.dumps(fast), "tokenizer_config.json": json.dumps(settings)}
    keys = _keys(tmp_path, files, {"type_vocab_size": 2})
    ours, theirs = Tokenizer(keys), Authority.from_str(files["tokenizer.json"])
    assert [ours.encode(text) for text in BERT_TEXTS] == [theirs.encode(text).ids for text in BERT_TEXTS]
    assert keys["tokenizer.ggml.tokens"][4:7] == ["▁the", "▁cat", "s"]
    assert keys["tokenizer.ggml.token_type_count"] == 2


def test_unigrams(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Authority

    pairs = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁the", -2.0), ("▁cat", -3.0), ("▁", -4.0)]
    pairs += [(letter, -6.0 - i / 8) for i, letter in enumerate("thecaso")] + [("at", -5.0)]
    added = [
        {"id": i, "content": pairs[i][0], "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False} for i in range(4)
    ]  # fmt: skip
    pre = _row(
        {"type": "WhitespaceSplit"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    )
    fast = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": pre,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": [list(pair) for pair in pairs], "byte_fallback": False},
    }
    keys = _keys(tmp_path, {"tokenizer.json": json.dumps(fast)}, {"bos_token_id": 0, "eos_token_id": 2})
    theirs, ours = Authority.from_str(json.dumps(fast)), Tokenizer(keys)
    for text in ("the cat sat", "  the   chaos ", "th x"):
        assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "has no tokenizer: neither tokenizer.json nor tokenizer.model"),
        ({"vocab.json": "{}"}, "saves anew as tokenizer.json"),
        ({"tokenizer.json": "{}"}, "of type 'None' are not known"),
        ({"tokenizer.json": '{"model": {"type": "WordLevel"}}'}, "of type 'WordLevel' are not known"),
        ({"tokenizer.json": '{"model": {"type": "Unigram", "vocab": [["a"]]}}'}, "no pair of a text and a score"),
        ({"tokenizer.json": "["}, "is not JSON"),
        ({"tokenizer.model": b"\x0a\xff\xff\xff\xff\x0f"}, "not a tokenizer of SentencePiece's, or damaged"),
        ({"tokenizer.model": b""}, "has 0 pieces"),
        ({"tokenizer.model": sentencepiece([("a", 0.0, 9)])}, "not a tokenizer of SentencePiece's, or damaged"),
        (byte_level() | {"tokenizer_config.json": "[]"}, "is not a JSON object"),
        (byte_level() | {"chat_template.jinja": b"\xff", "tokenizer_config.json": "{}"}, "not UTF-8"),
    ],
)
def test_tokenizers_that_are_none(files: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match=words):
        _keys(tmp_path, files)


def test_more_tokens_than_the_model_has(tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match="has a token 299, but the model's vocab_size is 200"):
        _keys(tmp_path, byte_level(), {"vocab_size": 200})
