"""Tokenizers without tokenizer.json: the file's tokenizer cuts texts as that of who made the files does."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.convert.checkpoint import Checkpoint, Config
from powerinfer_cli.convert.conversion import Vocabulary
from powerinfer_cli.convert.vocabulary import vocabulary_keys
from powerinfer_cli.convert.vocabulary.stand_ins import LLAMA3, QWEN
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.text import Tokenizer
from tests.helpers.tiny_tokenizers import TEKKEN, TEXT, byte_level

TEXTS = (TEXT, "1234567 I'LL go  HelloWorld\n\n\n中文字符  ", "", "the<|im_end|>cat")


def _keys(folder: Path, files: dict[str, Any], **config: Any) -> dict[str, Any]:
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    checkpoint = Checkpoint(folder, Config(folder / "config.json", config), {})
    return vocabulary_keys(checkpoint, Vocabulary())[0]


def _ranks() -> dict[bytes, int]:
    """Of the tiny vocabulary: bytes, then what is merged."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    model = json.loads(byte_level(320)["tokenizer.json"])["model"]
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    words = [text for text in model["vocab"] if not text.startswith("<|")]
    tokens = [bytes(byte_of[character] for character in word) for word in words]
    return {token: rank for rank, token in enumerate(sorted(tokens, key=lambda token: len(token) > 1))}


def _tiktoken(ranks: dict[bytes, int]) -> bytes:
    return b"".join(b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def _authority(ranks: dict[bytes, int], pattern: str, special: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """As transformers makes a tokenizer of ranks, which it would read by the tiktoken package."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    monkeypatch.setattr(TikTokenConverter, "load_tiktoken_bpe", staticmethod(lambda url: ranks))
    return TikTokenConverter("", pattern, extra_special_tokens=special).converted()


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_vocabulary_and_merges(kind: str, tmp_path: Path) -> None:
    import transformers

    model = json.loads(byte_level()["tokenizer.json"])["model"]
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""])
    settings = {"tokenizer_class": kind, "eos_token": "<|im_end|>", "chat_template": "{{ 1 }}"}
    files = {"vocab.json": json.dumps(model["vocab"]), "merges.txt": merges}
    keys = _keys(tmp_path, files | {"tokenizer_config.json": json.dumps(settings)}, vocab_size=310)
    ours = Tokenizer(keys)
    theirs = getattr(transformers, kind).from_pretrained(tmp_path)
    for text in TEXTS:
        assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False)
    assert keys["tokenizer.ggml.pre"] == {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}[kind]
    assert keys["tokenizer.ggml.token_type"][:3].tolist() == [3, 3, 1]
    assert (ours.eos_id, len(keys["tokenizer.ggml.tokens"])) == (1, 310)
    assert keys.get("tokenizer.ggml.bos_token_id") == (0 if kind == "GPT2Tokenizer" else None)
    assert keys["tokenizer.chat_template"] == "{{ 1 }}"


@pytest.mark.parametrize(
    ("name", "told", "pattern", "pre", "special"),
    [
        ("qwen.tiktoken", "qwen", QWEN, "qwen2", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        ("tokenizer.model", "llama", LLAMA3, "llama-bpe", ["<|begin_of_text|>", "<|end_of_text|>"]),
    ],
)
def test_tiktoken(
    name: str, told: str, pattern: str, pre: str, special: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = _ranks()
    keys = _keys(tmp_path, {name: _tiktoken(ranks)}, model_type=told)
    ours, theirs = Tokenizer(keys), _authority(ranks, pattern, special, monkeypatch)
    for text in (*TEXTS, f"a{special[1]}b"):
        assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False).ids
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", pre)
    n = len(ranks)
    assert keys["tokenizer.ggml.tokens"][n : n + 2] == special[:2]
    assert keys["tokenizer.ggml.bos_token_id"] == n
    assert len(keys["tokenizer.ggml.tokens"]) == n + (208 if told == "qwen" else 256)
    assert ours.add_bos is (told == "llama")


def test_listed_special_tokens_beat_those_that_are_known(tmp_path: Path) -> None:
    settings = {"added_tokens_decoder": {"400": {"content": "<|end_of_text|>", "special": True}}}
    files = {"tokenizer.model": _tiktoken(_ranks()), "tokenizer_config.json": json.dumps(settings)}
    keys = _keys(tmp_path, files, model_type="llama", vocab_size=500)
    assert keys["tokenizer.ggml.eos_token_id"] == 400
    assert "tokenizer.ggml.bos_token_id" not in keys


def tekken(ranks: dict[bytes, int], special: list[str] | None, n_special: int) -> dict[str, Any]:
    vocab = [{"rank": i, "token_bytes": b64encode(token).decode(), "token_str": None} for token, i in ranks.items()]
    config = {
        "pattern": TEKKEN,
        "default_vocab_size": len(vocab) + n_special - 5,
        "default_num_special_tokens": n_special,
    }
    told = None if special is None else [{"rank": i, "token_str": one} for i, one in enumerate(special)]
    return {"config": config, "vocab": vocab, "special_tokens": told}


@pytest.mark.parametrize("special", [None, ["<unk>", "<s>", "</s>", "[INST]"]])
def test_tekken(special: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many tokens of its vocabulary count as are told; special tokens come first."""
    ranks = dict(sorted(_ranks().items(), key=lambda pair: pair[1]))
    used = dict(list(ranks.items())[:-5])
    keys = _keys(tmp_path, {"tekken.json": json.dumps(tekken(ranks, special, 30))})
    ours, theirs = Tokenizer(keys), _authority(used, TEKKEN, [], monkeypatch)
    for text in TEXTS[:3]:
        wanted = [30 + token for token in theirs.encode(text, add_special_tokens=False).ids]
        assert ours.encode(text, add_special=False) == wanted
    assert ours.encode("[INST]", add_special=True) == [1, 3]
    assert keys["tokenizer.ggml.pre"] == "tekken"
    assert keys["tokenizer.ggml.tokens"][29] == "<SPECIAL_29>"
    assert (ours.bos_id, ours.eos_id, len(keys["tokenizer.ggml.tokens"])) == (1, 2, len(used) + 30)


BYTES = {bytes([i]): i for i in range(256)} | {bytes([i, i]): 256 + i for i in range(5)}
PAIRS = {bytes([i, 0]): i for i in range(256)}
ONE = _tiktoken(BYTES)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"x.tiktoken": ONE}, "known here of qwen, llama, glm, chatglm models, not of 'gpt9'"),
        ({"qwen.tiktoken": ONE + b"!!!! 300\n"}, "line 262 is no token in base64"),
        ({"qwen.tiktoken": ONE + b"YWI= 3\n"}, "two tokens have one rank"),
        ({"qwen.tiktoken": ONE[7:]}, "lacks tokens of single bytes"),
        ({"tekken.json": "{}"}, "config.default_vocab_size is None"),
        (
            {"tekken.json": json.dumps(tekken({bytes([i % 256, i // 256]): i for i in range(300)}, None, 5))},
            "lacks tokens of single bytes",
        ),
        ({"tekken.json": json.dumps(tekken(BYTES, ["a"] * 9, 5))}, "no list of at most 5 tokens"),
        ({"vocab.json": "{}"}, "saves anew as tokenizer.json"),
        ({"vocab.json": "{}", "merges.txt": "a\n"}, "vocab_size is 0|merge is no pair"),
        ({"vocab.json": '{"a": "b"}', "merges.txt": ""}, "has numbers that are none"),
        ({"vocab.json": "{}", "merges.txt": b"\xff"}, "not UTF-8"),
        (
            {"vocab.json": "{}", "merges.txt": "", "tokenizer_config.json": '{"tokenizer_class": "CLIPTokenizer"}'},
            "a CLIPTokenizer's words are not known here",
        ),
    ],
)
def test_files_that_are_none(files: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match=words):
        _keys(tmp_path, files, model_type="gpt9")
