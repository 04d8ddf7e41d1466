"""Ids, texts and special tokens are llama.cpp's, as scripts/recording/record_tokenizer_ids.py recorded them."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.text import Tokenizer
from powerinfer_cli.text.pretokenizers import known_pretokenizers
from tests.text.nasty_texts import NASTY_TEXTS
from tests.text.vocabularies import all_vocabularies, ending_vocabularies

RECORD = json.loads(gzip.decompress((Path(__file__).parent / "data" / "llama_cpp_ids.json.gz").read_bytes()))
NAMES = sorted(RECORD["vocabularies"])


@cache
def tokenizer(name: str) -> Tokenizer:
    return Tokenizer.from_metadata(all_vocabularies()[name])


def recorded(name: str, what: str) -> list[Any]:
    return [RECORD["distinct"][i] for i in RECORD["vocabularies"][name][what]]


def test_everything_is_recorded() -> None:
    assert set(NAMES) == set(all_vocabularies())
    assert set(RECORD["endings"]) == set(ending_vocabularies())
    assert {f"bpe/{pre}" for pre in known_pretokenizers()} <= set(NAMES)
    assert all(len(recorded(name, "plain")) == len(NASTY_TEXTS) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_ids_of_plain_text(name: str) -> None:
    for text, expected in zip(NASTY_TEXTS, recorded(name, "plain"), strict=True):
        assert tokenizer(name).encode(text, add_special=False, parse_special=False) == expected, text


@pytest.mark.parametrize("name", NAMES)
def test_ids_with_special_tokens(name: str) -> None:
    for text, expected in zip(NASTY_TEXTS, recorded(name, "special"), strict=True):
        assert tokenizer(name).encode(text) == expected, text


@pytest.mark.parametrize("name", NAMES)
def test_decoded_texts_and_pieces(name: str) -> None:
    ours = tokenizer(name)
    for ids, expected in zip(recorded(name, "special"), recorded(name, "decoded"), strict=True):
        assert ours.decode_bytes(ids).hex() == expected
    assert [ours.piece(i, special=True).hex() for i in range(ours.vocab_size)] == recorded(name, "pieces")


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens(name: str) -> None:
    ours, theirs = tokenizer(name), RECORD["vocabularies"][name]
    assert sorted(ours.eog_ids) == theirs["eog"]
    assert (ours.bos_id, ours.eos_id) == (theirs["bos"], theirs["eos"])
    assert (ours.add_bos, ours.add_eos) == (theirs["add_bos"], theirs["add_eos"])


@pytest.mark.parametrize("name", sorted(RECORD["endings"]))
def test_a_generation_ends_where_llama_cpp_ends_it(name: str) -> None:
    ours = Tokenizer.from_metadata(ending_vocabularies()[name])
    assert sorted(map(ours.text_of, ours.eog_ids)) == sorted(RECORD["endings"][name])


def test_pretokenizers_are_told_apart() -> None:
    """The corpus is worth something only if different pre-tokenizers give different ids on it."""
    distinct = {tuple(RECORD["vocabularies"][name]["plain"]) for name in NAMES}
    assert len(distinct) >= 30
