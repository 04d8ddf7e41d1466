"""Counting what a JSON text is made of, and reading one while others work."""

import json
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.serving.http.json_text import PartCounter, load_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\\\,[{:\n\ud800é', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\\\,:', max_size=4), inner, max_size=4),
    max_leaves=20,
)


def counted(*pieces: bytes) -> int:
    counter = PartCounter()
    for piece in pieces:
        counter.push(piece)
    return counter.n_parts


def n_parts(value: Any) -> int:
    """Values and keys, without the outermost."""
    if isinstance(value, dict):
        return sum(2 + n_parts(one) for one in value.values())
    return sum(1 + n_parts(one) for one in value) if isinstance(value, list) else 0


@given(value=VALUES, size=st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_no_fewer_parts_than_there_are(value: Any, size: int) -> None:
    text = json.dumps(value).encode()
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert n_parts(value) <= counted(text) <= 2 * n_parts(value) + 1
    assert counted(*pieces) == counted(text)
    assert load_json(text) == value


@pytest.mark.parametrize("text", [b'"[[[,,,{{{"', b'"\\\\\\"[[["', b'"a\\u005b[["', b'{} "[,', b'""""""'])
def test_texts_hold_no_parts(text: bytes) -> None:
    assert counted(text) == text.startswith(b"{")


@pytest.mark.parametrize(
    "text", [b"", b"[1", b"[1,]", b'{"a" 1}', b"tru", b"1 2", b"[" * 100_000, b"\xff", '["a"]'.encode("utf-16")]
)
def test_what_is_no_json_is_none(text: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        load_json(text)


@pytest.mark.parametrize("text", [b"NaN", b'{"a": [-Infinity]}', b"[1e400]"])
def test_what_python_alone_takes_for_a_number_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"no JSON number|beyond what"):
        load_json(text)


def test_a_mark_of_its_encoding_is_passed_over() -> None:
    assert load_json(b"\xef\xbb\xbf[1]") == [1]


def test_others_work_while_much_is_read() -> None:
    """C's scanner lets nobody in until it has read all."""
    text, done = b"[" + b"[]," * 150_000 + b"1]", threading.Event()
    turns = 0
    thread = threading.Thread(target=lambda: (load_json(text), done.set()))
    thread.start()
    while not done.wait(0.001):
        turns += 1
    thread.join()
    assert turns > 2
