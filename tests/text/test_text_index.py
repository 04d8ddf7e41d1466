"""Texts are found by a hash table of arrays as a dict finds them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.gguf_io import Strings
from powerinfer_cli.text.text_index import TextIndex

TEXTS = st.lists(st.text(st.sampled_from("ab ▁\0\n😀é"), max_size=20))


@given(texts=TEXTS, others=TEXTS)
@settings(max_examples=300, deadline=None)
def test_texts_are_found_as_in_a_dict(texts: list[str], others: list[str]) -> None:
    index = TextIndex(Strings.of(texts))
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    for text in [*texts, *others, "", "\ud800"]:
        assert index.get(text) == first.get(text)
        assert (text in index) == (text in first)
    assert set(index) == set(first)
    pair = index.first_pair()
    if pair is None:
        assert len(first) == len(texts)
    else:
        assert pair[0] < pair[1]
        assert texts[pair[0]] == texts[pair[1]]


def test_texts_that_differ_in_their_middle_alone() -> None:
    texts = ["x" * 20 + str(i) + "y" * 20 for i in range(10, 60)]
    index = TextIndex(Strings.of(texts))
    assert [index[text] for text in texts] == list(range(50))
    assert index.first_pair() is None
