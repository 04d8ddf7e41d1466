"""Texts in chunks, and which documents are held out."""

from dataclasses import replace

import pytest

from solver.profile import Text, chunks_of, held_out, some_of


def documents(count: int, tokens: int) -> list[list[int]]:
    return [[number] * tokens for number in range(count)]


def test_documents_have_chunks_of_their_own() -> None:
    text = Text.of([[1] * 130, [2] * 10, [3] * 64], 128, bos=9)
    assert [len(chunk) for chunk in text] == [128, 64]
    assert text.documents == (0, 2), "what is too short is left out"
    assert {chunk[0] for chunk in text} == {9}
    assert set(text[1][1:]) == {3}


@pytest.mark.parametrize(("count", "every"), [(80, 8), (48, 8), (32, 6), (8, 4)])
def test_whole_documents_are_held_out_until_enough_can_be_scored(count: int, every: int) -> None:
    text = Text.of(documents(count, 1024), 512, None)
    train, held = held_out(text)
    seen, kept = ({chunk[0] for chunk in part} for part in (train, held))
    assert not seen & kept
    assert seen | kept == set(range(count))
    assert len(kept) == count // every
    scored = sum(len(chunk) - 1 - len(chunk) // 8 for chunk in held)
    assert scored >= 4000 or every == 4
    assert sorted(map(tuple, [*train, *held])) == sorted(text)


def test_stretches_of_one_text_count_as_documents() -> None:
    text = chunks_of(list(range(128 * 512)), 512, None)
    assert set(text.documents) == set(range(16))
    train, held = held_out(text)
    starts = [chunk[0] // 512 for chunk in held]
    assert starts == [*range(56, 64), *range(120, 128)]
    assert len(train) + len(held) == 128


def test_of_one_document_chunks_are_held_out() -> None:
    text = replace(Text.of(documents(1, 512 * 8), 512, None), documents=(0,) * 8)
    train, held = held_out(text)
    assert (len(train), len(held)) == (6, 2)
    one = chunks_of([0] * 512, 512, None)
    assert held_out(one) == ([one[0]], [one[0]])


def test_some_come_from_all_parts() -> None:
    chunks = [[i] * 10 for i in range(40)]
    assert [chunk[0] for chunk in some_of(chunks, 100)] == list(range(2, 40, 4))
    assert some_of(chunks, 400) == some_of(chunks, 4000) == chunks


def test_of_a_long_text_documents_from_all_over_are_taken() -> None:
    text = Text(tuple((i,) * 100 for i in range(40)), tuple(i // 4 for i in range(40)))
    found = text.about(1000)
    assert set(found.documents) == {0, 5}
    assert sum(map(len, found)) == 800
    assert text.about(4000) is text
    assert len(set(text.about(1).documents)) == 2  # one of them is held out
