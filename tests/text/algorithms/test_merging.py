"""Parts of the tokenizers that have a dull twin to be compared with."""

import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from math import inf

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.gguf_io import Strings
from powerinfer_cli.text.algorithms.merging import (
    CACHED_NUMBERS,
    CACHED_WORDS,
    LONGEST_CACHED,
    NEVER,
    NumberCache,
    WordCache,
    merge_few,
    merge_many,
)
from powerinfer_cli.text.algorithms.spm import SpmEncoder, bridges_of
from powerinfer_cli.text.partition import Partition, SpecialText
from powerinfer_cli.text.text_index import TextIndex
from powerinfer_cli.text.tokenizer import Tokenizer
from tests.text.vocabularies import sentencepiece

PIECES = st.text("ab", min_size=1, max_size=3)
RANKS = st.dictionaries(st.tuples(PIECES, PIECES), st.integers(0, 5))


def ranked(ranks: dict[str, int]) -> Callable[[str], int]:
    return lambda pair: ranks.get(pair, NEVER)


def naive_merge(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """The definition: look at all pairs, merge the best, again."""
    while True:
        pairs = [(ranks.get((left, right), inf), i) for i, (left, right) in enumerate(pairwise(symbols))]
        best, i = min(pairs, default=(inf, 0))
        if best == inf:
            return symbols
        symbols = [*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :]]


@given(text=st.text("ab", max_size=40), ranks=RANKS)
@settings(max_examples=200, deadline=None)
def test_both_ways_of_merging_follow_the_definition(text: str, ranks: dict[tuple[str, str], int]) -> None:
    expected = naive_merge(list(text), ranks)
    joined = {f"{left} {right}": rank for (left, right), rank in ranks.items()}
    assert merge_many(list(text), ranked(joined), " ") == expected
    assert merge_few(list(text), ranked(joined), " ") == expected


@pytest.mark.parametrize("ranks", [{}, {"▁▁": 2, "▁▁▁▁": 1, "▁▁▁": 3}])
def test_a_word_of_any_length_takes_little_memory(ranks: dict[str, int]) -> None:
    """A client may send millions of spaces, which are one word. Beyond Latin-1 a character is an object of its own."""
    text = "▁" * 50_000
    tracemalloc.start()
    merged = merge_many(text, ranked(ranks), "")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "".join(merged) == text
    assert peak < 50 * len(text)  # 170 with an object for each, 230 with a heap of numbers


def spm_encoder(tokens: list[str], scores: npt.NDArray[np.float32]) -> SpmEncoder:
    pieces = Strings.of(tokens)
    return SpmEncoder(pieces, TextIndex(pieces), scores, 0)


SPM_WORDS = st.lists(
    st.sampled_from(["the", " ", "  ", "\n\n", "e t", "\n", "little", " bear", "a", ",", "é", "]", "你", "▁", "?"])
)


@given(parts=SPM_WORDS, bridged=st.booleans(), more=st.sampled_from([(), ("\nt", "e\n")]))
@settings(max_examples=200, deadline=None)
def test_cutting_a_text_into_words_changes_no_id(parts: list[str], bridged: bool, more: tuple[str, ...]) -> None:
    bridges = (",▁", "e▁t", "▁a▁", "]▁", "e▁", "\n▁") if bridged else ()
    learned = [token for token in sentencepiece()["tokenizer.ggml.tokens"] if "\n" not in token]
    tokens = [*more, *bridges, *learned, "\n"]
    scores = -np.arange(len(tokens), dtype=np.float32) // 3
    encoder = spm_encoder(tokens, scores)
    text = "".join(parts)
    assert tuple(encoder.encode(text.encode())) == encoder.encode_word(text.replace(" ", "▁"))


def test_words_are_cut_where_no_piece_can_join_them() -> None:
    cut = spm_encoder(["a▁", "a", "b", "▁"], np.zeros(4, dtype=np.float32))._cut
    assert cut("b▁b▁▁a▁b▁") == ["b", "▁b", "▁▁a▁b", "▁"]


SPACED = st.text("a▁é你\n\0", min_size=1, max_size=5)


@given(tokens=st.lists(SPACED), merges=st.lists(st.tuples(SPACED, SPACED)))
@settings(max_examples=200, deadline=None)
def test_bridges_are_what_stands_before_a_space_in_some_piece(tokens: list[str], merges: list[tuple[str, str]]) -> None:
    whole = [*tokens, *map("".join, merges)]
    expected = {one for token in whole for one, behind in pairwise(token) if behind == "▁"} - {"▁"}
    assert bridges_of(Strings.of([*tokens, *map(" ".join, merges)])) == expected
    assert bridges_of(Strings.of(["▁", "▁▁a", "b▁ ▁", "c ▁", "é▁d", "你", "▁\n"])) == {"b", "c", "é"}


def test_the_cache_of_numbers_is_bounded() -> None:
    asked: list[str] = []
    cache = NumberCache(lambda pair: asked.append(pair) or len(pair))
    assert [cache["ab"], cache["ab"]] == [2, 2]
    assert asked == ["ab"]
    for i in range(CACHED_NUMBERS + 10):
        assert cache[f"w{i}"] == len(f"w{i}")
    assert len(cache) <= CACHED_NUMBERS
    assert cache["x" * (LONGEST_CACHED + 1)] == LONGEST_CACHED + 1
    assert "x" * (LONGEST_CACHED + 1) not in cache


def test_the_word_cache_is_bounded() -> None:
    cache = WordCache(lambda word: (len(word),))
    for i in range(CACHED_WORDS + 10):
        assert cache[f"w{i}"] == (len(f"w{i}"),)
    assert len(cache) == 10
    assert cache["x" * (LONGEST_CACHED + 1)] == (LONGEST_CACHED + 1,)
    assert len(cache) == 10


def cut(text: bytes, *specials: tuple[bytes, str]) -> list[bytes | int]:
    return Partition(
        [SpecialText(i, s, "l" in strip, "r" in strip) for i, (s, strip) in enumerate(specials)],
    ).cut(text)


def test_special_tokens_are_cut_out_in_the_order_given() -> None:
    assert cut(b"", (b"<a>", "")) == []
    assert cut(b"<a>", (b"<a>", "")) == [0]
    assert cut(b"x<a>y<a><a>", (b"<a>", "")) == [b"x", 0, b"y", 0, 0]
    assert cut(b"<ab>c>", (b"b>c", ""), (b"<ab>", "")) == [b"<a", 0, b">"]
    assert cut(b"<ab>c>", (b"<ab>", ""), (b"b>c", "")) == [0, b"c>"]


def test_special_tokens_swallow_white_space() -> None:
    assert cut(b"x \n<a> \ty ", (b"<a>", "r")) == [b"x \n", 0, b"y "]
    assert cut(b"x \n<a> \ty ", (b"<a>", "l")) == [b"x", 0, b" \ty "]
    assert cut(b" <a> <a> ", (b"<a>", "lr")) == [0, 0]
    assert cut(b"a\n\nb", (b"\n", "r")) == [b"a", 0, b"b"]
    assert cut(b"x\xa0<a>", (b"<a>", "l")) == [b"x\xa0", 0]


def test_words_that_are_forgotten_are_encoded_again() -> None:
    tokenizer = Tokenizer(sentencepiece())
    ids = tokenizer.encode("Once upon a time")
    assert all(tokenizer._encoder._caches)
    tokenizer.forget_words()
    assert not any(tokenizer._encoder._caches)
    assert tokenizer.encode("Once upon a time") == ids
