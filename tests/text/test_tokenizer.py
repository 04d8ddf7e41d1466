"""The tokenizer's interface: files, types of text, hostile metadata."""

import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import Strings, open_gguf, write_gguf
from powerinfer_cli.text import StreamingDetokenizer, Tokenizer
from tests.text.vocabularies import byte_level, sentencepiece

SPM = Tokenizer.from_metadata(sentencepiece())
BPE = Tokenizer.from_metadata(byte_level("llama-bpe"))


def test_a_vocabulary_only_file_opens_by_path_and_as_an_open_file(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    write_gguf(path, arch="llama", metadata=sentencepiece(), tensors=[], sparse=False)
    with open_gguf(path) as file:
        assert Tokenizer.from_gguf(file).encode("Hello 😀") == SPM.encode("Hello 😀")
    assert Tokenizer.from_gguf(path).encode("Hello 😀") == Tokenizer.from_gguf(str(path)).encode("Hello 😀")


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "nothing.gguf"
    write_gguf(path, arch="llama", metadata={}, tensors=[], sparse=False)
    with pytest.raises(PowerInferError, match=r"nothing\.gguf: the metadata has no tokenizer\.ggml\.model"):
        Tokenizer.from_gguf(path)


def with_spaces(text: str) -> str:
    """What SentencePiece makes of a text: a space before what follows a token that is cut out of it, as llama.cpp."""
    first, *rest = re.split("(<tool>|\n\n)", text)
    return first + "".join(f" {part}" if at % 2 and part else part for at, part in enumerate(rest))


@pytest.mark.parametrize("tokenizer", [SPM, BPE], ids=["spm", "bpe"])
@given(text=st.lists(st.text() | st.sampled_from(["\n\n", "<tool>", " ", "0"])).map("".join))
@example("\n\n0")  # llama.cpp: "\n\n 0"
@example("a\n\n0")
@example("<tool> x\n\n\n\ny<tool>")
@example("a<tool>b\n\n\nc")
@example(" \n\n ")
@settings(max_examples=150, deadline=None)
def test_any_text_survives_encoding_and_decoding(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("\u2581", "")  # which SentencePiece cannot tell from a space
    ids = tokenizer.encode(text, add_special=False, parse_special=False)
    assert tokenizer.encode(text.encode(), add_special=False, parse_special=False) == ids
    wanted = with_spaces(text) if tokenizer is SPM else text
    assert tokenizer.decode(ids) == wanted
    assert tokenizer is BPE or tokenizer.decode_bytes(ids) == wanted.encode()
    alone = StreamingDetokenizer(tokenizer, strip_first_space=True)
    assert "".join(map(alone.push, ids)) == wanted


@pytest.mark.parametrize("tokenizer", [SPM, BPE], ids=["spm", "bpe"])
@given(data=st.binary())
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_encoded(tokenizer: Tokenizer, data: bytes) -> None:
    ids = tokenizer.encode(data)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    tokenizer.decode(ids)


def test_lone_surrogates_become_their_three_bytes() -> None:
    ids = SPM.encode("a\ud800b", add_special=False)
    assert b"".join(SPM.piece(i) for i in ids) == b" a\xed\xa0\x80b"
    assert BPE.decode_bytes(BPE.encode("a\ud800b", add_special=False)) == b"a\xed\xa0\x80b"


def test_sentencepiece_keeps_bad_bytes_and_bpe_replaces_them() -> None:
    assert SPM.decode_bytes(SPM.encode(b"a\xffb", add_special=False)) == b"a\xffb"
    assert SPM.decode(SPM.encode(b"a\xffb", add_special=False)) == "a\ufffdb"
    assert BPE.decode(BPE.encode(b"a\xffb", add_special=False)) == "a\ufffdb"
    assert BPE.decode(BPE.encode(b"\xf4\x90\x80\x80", add_special=False)) == "\ufffd"


@pytest.mark.parametrize("text", ["that . ok ?", " two  spaces ", "", " ", "I 've ' done", "a\n b\t", "né 日本 👩‍👩‍👧"])
def test_text_comes_back_as_it_was(text: str) -> None:
    for tokenizer in (SPM, BPE):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


def test_ids_out_of_range_are_refused() -> None:
    for bad in (-1, SPM.vocab_size):
        with pytest.raises(PowerInferError, match="not in the vocabulary of"):
            SPM.decode([bad])


def test_control_tokens_can_be_left_out() -> None:
    ids = SPM.encode("<|im_start|>x<|im_end|>")
    assert SPM.decode(ids, special=True) == "<s><|im_start|> x<|im_end|>"
    assert SPM.decode(ids) == "x"
    assert [i for i in ids if SPM.is_control(i)] == [SPM.bos_id, SPM.id_of("<|im_start|>"), SPM.id_of("<|im_end|>")]


def test_a_byte_without_a_token_is_the_unknown_token_or_a_clear_error() -> None:
    few: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "\u2581"],
    }
    assert Tokenizer.from_metadata(few).encode("a?", add_special=False) == [4, 3, 0]
    few = {**few, "tokenizer.ggml.tokens": [], "tokenizer.ggml.unknown_token_id": 7}
    with pytest.raises(PowerInferError, match=r"no tokenizer\.ggml\.tokens"):
        Tokenizer.from_metadata(few)


def test_long_words_do_not_take_quadratic_time() -> None:
    """A quadratic merge or split would need minutes for these; the suite's time limit is the check."""
    for text in ("a" * 30_000, " " * 30_000 + "x", "\n" * 30_000):
        for tokenizer in (SPM, BPE, Tokenizer.from_metadata(byte_level("deepseek-llm"))):
            assert tokenizer.decode_bytes(tokenizer.encode(text, add_special=False)).endswith(text[-9:].encode())


HOSTILE: list[tuple[str, dict[str, Any], str]] = [
    ("no model", {"tokenizer.ggml.model": None}, "no tokenizer.ggml.model"),
    ("unknown model", {"tokenizer.ggml.model": "mystery"}, "unknown tokenizer model 'mystery'.*known are llama"),
    ("foreign model", {"tokenizer.ggml.model": "rwkv"}, r"'rwkv' \(a trie of .*not supported.*known are llama, gpt2"),
    ("no vocabulary", {"tokenizer.ggml.model": "none"}, r"'none' \(no vocabulary at all\) is not supported"),
    ("foreign pre", {"tokenizer.ggml.pre": "whitespace"}, r"pre-tokenizer 'whitespace' \(of models that only embed\)"),
    ("model of a wrong type", {"tokenizer.ggml.model": 3}, "tokenizer.ggml.model should be a string, but it is int"),
    ("unknown pre", {"tokenizer.ggml.pre": "mystery"}, "unknown pre-tokenizer 'mystery'.*known are .*llama-bpe"),
    ("no tokens", {"tokenizer.ggml.tokens": None}, "no tokenizer.ggml.tokens"),
    ("tokens of a wrong type", {"tokenizer.ggml.tokens": "abc"}, "should be an array of strings, but it is str"),
    ("tokens that are numbers", {"tokenizer.ggml.tokens": np.arange(9)}, "should be an array of strings"),
    ("tokens of mixed types", {"tokenizer.ggml.tokens": ["a", 1]}, "should be an array of strings"),
    (
        "a token twice",
        {"tokenizer.ggml.tokens": ["a", "b", "a"], "tokenizer.ggml.token_type": None},
        "'a' twice, as ids 0 and 2",
    ),
    ("few types", {"tokenizer.ggml.token_type": np.ones(3, dtype=np.int32)}, "token_type has 3 entries for"),
    ("types with fractions", {"tokenizer.ggml.token_type": np.ones(2000)}, "token_type should hold whole numbers"),
    ("few scores", {"tokenizer.ggml.scores": np.ones(3, dtype=np.float32)}, "scores has 3 entries for"),
    ("scores of a wrong type", {"tokenizer.ggml.scores": ["a"]}, "scores should be an array of numbers"),
    ("a score that is no number", {"tokenizer.ggml.scores": np.full(2000, np.nan)}, "scores holds a NaN"),
    ("no merges", {"tokenizer.ggml.merges": None}, "no tokenizer.ggml.merges"),
    ("a bool of a wrong type", {"tokenizer.ggml.add_bos_token": 1}, "add_bos_token should be a bool, but it is int"),
    (
        "an id of a wrong type",
        {"tokenizer.ggml.bos_token_id": "1"},
        "bos_token_id should be a whole number, but it is str",
    ),
    ("a template of a wrong type", {"tokenizer.chat_template": 5}, "chat_template should be a string"),
]


@pytest.mark.parametrize(("changes", "message"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_hostile_metadata_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    metadata = {key: value for key, value in (byte_level("gpt-2") | changes).items() if value is not None}
    with pytest.raises(PowerInferError, match=message) as caught:
        Tokenizer.from_metadata(metadata)
    assert "\n" not in str(caught.value)


def test_special_ids_out_of_range_are_noted_and_their_defaults_taken() -> None:
    changed = sentencepiece(**{"tokenizer.ggml.bos_token_id": 10**6, "tokenizer.ggml.padding_token_id": 2**32 - 1})
    tokenizer = Tokenizer.from_metadata(changed)
    assert (tokenizer.bos_id, tokenizer.pad_id) == (1, None)
    assert [note.split()[0] for note in tokenizer.notes] == [
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.padding_token_id",
    ]


def test_a_missing_pretokenizer_is_noted() -> None:
    metadata = {key: value for key, value in byte_level("").items() if key != "tokenizer.ggml.pre"}
    assert ["pre-tokenizer" in note for note in Tokenizer.from_metadata(metadata).notes] == [True]


def test_a_bos_that_does_not_exist_is_noted_and_left_out() -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.add_eos_token": True,
    }
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.encode("ab") == [0, 1]
    assert len(tokenizer.notes) == 2


def special_tokens(*names: str, **extra: Any) -> Tokenizer:
    tokens = [*map(str, range(20)), *names]
    return Tokenizer.from_metadata(
        {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.eos_token_id": 2, **extra}
    )


def test_tokens_that_end_a_generation_are_found_by_their_texts() -> None:
    assert special_tokens("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "other").eog_ids == {2, 20, 21, 22}
    assert special_tokens("<|fim_pad|>", "<|fim_pre|>").eog_ids == {2, 20}
    assert special_tokens("other", **{"tokenizer.ggml.eot_token_id": 20}).eog_ids == {2, 20}
    assert special_tokens("<|eot_id|>").eot_id == 20
    assert special_tokens("<|im_end|>").is_control(20)


def test_tokens_that_only_look_like_an_end_are_not() -> None:
    assert special_tokens("<|end|>", "<|return|>", "<|call|>").eog_ids == {2, 21, 22}
    assert special_tokens("<|end|>", "<|flush|>", "<|calls|>").eog_ids == {2, 21, 22}
    assert special_tokens("<|end|>").eog_ids == {2, 20}
    assert special_tokens("</s>", "<|tool_response>").eog_ids == {2, 21}
    assert special_tokens("</s>").eog_ids == {2, 20}
    assert special_tokens("<|channel|>", **{"tokenizer.ggml.token_type": [3] * 21}).is_user_defined(20)


def test_a_vocabulary_takes_little_memory_for_each_token_and_merge() -> None:
    """A str for each, in a dict, takes some 160 bytes."""
    characters = [chr(0x4E00 + i) for i in range(200)]
    pairs = [(a, b) for a in characters for b in characters]
    tokens = Strings.of([*characters, *(a + b for a, b in pairs)])
    merges = Strings.of(f"{a} {b}" for a, b in pairs)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
    }
    tracemalloc.start()
    tokenizer = Tokenizer.from_metadata(metadata)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert tokenizer.encode(characters[7] + characters[9], add_special=False) == [200 + 7 * 200 + 9]
    assert kept < 32 * (len(tokens) + len(merges))
