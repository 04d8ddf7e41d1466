"""Parts of the tokenizers that have a dull twin to be compared with."""

import tracemalloc
from itertools import pairwise
from math import inf

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.text.merging import CACHED_WORDS, LONGEST_CACHED, WordCache, merge_few, merge_many
from powerinfer_cli.text.partition import SpecialText, partition
from powerinfer_cli.text.spm import SpmEncoder
from tests.text.vocabularies import sentencepiece

PIECES = st.text("ab", min_size=1, max_size=3)
RANKS = st.dictionaries(st.tuples(PIECES, PIECES), st.integers(0, 5))


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
    assert merge_many(list(text), joined, " ") == expected
    assert merge_few(list(text), joined, " ") == expected


def test_a_word_of_any_length_takes_little_memory() -> None:
    """A client may send millions of spaces, which are one word."""
    symbols = [" "] * 50_000
    tracemalloc.start()
    merged = merge_many(symbols, {"  ": 2, "    ": 1, "   ": 3}, "")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "".join(merged) == "".join(symbols)
    assert peak < 150 * len(symbols)  # 230 with tuples and lists


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
    encoder = SpmEncoder({token: i for i, token in enumerate(tokens)}, scores, 0)
    text = "".join(parts)
    assert tuple(encoder.encode(text.encode())) == encoder.encode_word(text.replace(" ", "▁"))


def test_words_are_cut_where_no_piece_can_join_them() -> None:
    ids = {token: i for i, token in enumerate(["a▁", "a", "b", "▁"])}
    cut = SpmEncoder(ids, np.zeros(4, dtype=np.float32), 0)._cut
    assert cut("b▁b▁▁a▁b▁") == ["b", "▁b", "▁▁a▁b", "▁"]


def test_the_word_cache_is_bounded() -> None:
    cache = WordCache(lambda word: (len(word),))
    for i in range(CACHED_WORDS + 10):
        assert cache[f"w{i}"] == (len(f"w{i}"),)
    assert len(cache) == 10
    assert cache["x" * (LONGEST_CACHED + 1)] == (LONGEST_CACHED + 1,)
    assert len(cache) == 10


def cut(text: bytes, *specials: tuple[bytes, str]) -> list[bytes | int]:
    return partition(text, [SpecialText(i, s, "l" in strip, "r" in strip) for i, (s, strip) in enumerate(specials)])


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
