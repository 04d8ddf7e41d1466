"""Arrays of strings are read at once where they are regular, and the same where they are not."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.gguf_io import GGUFError, Strings
from powerinfer_cli.gguf_io.cursor import Cursor
from powerinfer_cli.gguf_io.strings import regular_strings

TEXTS = st.one_of(
    st.lists(st.text(max_size=12)),
    st.lists(st.text("a▁é", min_size=1, max_size=300), min_size=1),
    st.lists(st.sampled_from(["\0" * 6, "a" + "\0" * 6 + "b", "\1", "\1\0\0\0\0\0\0\0x", "x" * 256, "", "é"])),
)


def written(texts: list[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(text)) + text for text in texts)


def read(data: bytes, count: int) -> tuple[list[str], int]:
    cursor = Cursor(data, Path("file.gguf"))
    strings = cursor.strings(count, "a list")
    return list(strings), cursor.pos


@given(texts=TEXTS, behind=st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_strings_come_back_whatever_they_hold(texts: list[str], behind: bytes) -> None:
    data = written([text.encode() for text in texts])
    assert read(data + behind, len(texts)) == (texts, len(data))


@given(data=st.binary(max_size=60), count=st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_no_strings_are_refused_in_the_same_way(data: bytes, count: int) -> None:
    found = regular_strings(np.frombuffer(data, np.uint8), count)
    try:
        expected = list(Cursor(data, Path("file.gguf"))._any_strings(count, "a list"))
    except GGUFError:
        assert found is None
    else:
        assert found is None or list(found) == expected


@pytest.mark.parametrize("n_bytes", [1, 200, 255, 256, 257, 65535])
def test_ordinary_strings_are_read_at_once(n_bytes: int) -> None:
    texts = [b"a" * n_bytes, "▁é".encode(), b"b"]
    found = regular_strings(np.frombuffer(written(texts) + b"more", np.uint8), 3)
    assert found is not None
    assert found == [text.decode() for text in texts]
    assert [found.raw(i) for i in range(3)] == texts


def test_strings_are_a_sequence() -> None:
    strings = Strings.of(["a", "", "é😀", "b\0"])
    assert (len(strings), strings[2], strings[-1], strings.raw(2)) == (4, "é😀", "b\0", "é😀".encode())
    assert strings[1:3] == ["", "é😀"]
    assert strings == ("a", "", "é😀", "b\0")
    assert strings != ["a"]
    assert strings != "a"
    assert "é😀" in strings
    assert repr(strings) == "Strings(['a', '', 'é😀', ...], 4 in all)"
    assert repr(Strings.of([])) == "Strings([])"
