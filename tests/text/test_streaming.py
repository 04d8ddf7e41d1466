"""Text while it is generated."""

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.text import StopMatcher, StreamingDetokenizer, Tokenizer
from tests.text.nasty_texts import NASTY_TEXTS
from tests.text.vocabularies import byte_level, sentencepiece

TOKENIZERS = [Tokenizer.from_metadata(sentencepiece()), Tokenizer.from_metadata(byte_level("llama-bpe"))]


def pushed(detokenizer: StreamingDetokenizer, ids: list[int]) -> list[str]:
    parts = [*map(detokenizer.push, ids)]
    detokenizer.reset()
    return parts


def without_half(data: bytes) -> str:
    """The text, but for a character that its end cuts in two."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["spm", "bpe"])
def test_streaming_gives_the_decoded_text_in_whole_characters(tokenizer: Tokenizer) -> None:
    for text in NASTY_TEXTS:
        ids = tokenizer.encode(text)
        parts = pushed(StreamingDetokenizer(tokenizer, special=True), ids)
        whole = b"".join(tokenizer.piece(i, special=True) for i in ids)
        assert "".join(parts) == without_half(whole)
        try:
            text.decode()
        except UnicodeDecodeError:
            continue
        assert not any("\ufffd" in part for part in parts) or "\ufffd" in text.decode()


@given(data=st.binary())
@settings(max_examples=150, deadline=None)
def test_any_bytes_stream(data: bytes) -> None:
    spm = TOKENIZERS[0]
    ids = [3 + byte for byte in data]  # its byte tokens
    assert "".join(pushed(StreamingDetokenizer(spm), ids)) == without_half(data)


def test_an_incomplete_character_waits_and_is_left_out_at_the_end() -> None:
    detokenizer = StreamingDetokenizer(TOKENIZERS[0])
    assert [detokenizer.push(3 + byte) for byte in "😀".encode()] == ["", "", "", "😀"]
    assert detokenizer.push(3 + 0xF0) == ""
    assert detokenizer.push(3 + 0x41) == "\ufffdA"
    assert detokenizer.push(3 + 0xE4) == ""
    detokenizer.reset()
    assert detokenizer.push(3 + 0x41) == "A"


def test_control_tokens_are_shown_on_request() -> None:
    spm = TOKENIZERS[0]
    ids = spm.encode("<|im_start|>the")
    assert "".join(pushed(StreamingDetokenizer(spm), ids)) == " the"
    assert "".join(pushed(StreamingDetokenizer(spm, special=True), ids)) == "<s><|im_start|> the"


def test_the_first_space_stays_unless_the_text_stands_alone() -> None:
    spm = TOKENIZERS[0]
    ids = spm.encode("the the", add_special=False)
    assert "".join(pushed(StreamingDetokenizer(spm), ids)) == " the the"
    assert "".join(pushed(StreamingDetokenizer(spm, strip_first_space=True), ids)) == "the the"


def naive(text: str, stops: list[str]) -> tuple[str, str | None]:
    found = [(text.find(stop), len(stop), stop) for stop in stops if stop and stop in text]
    return (text[: min(found)[0]], min(found)[2]) if found else (text, None)


@given(
    parts=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", max_size=4), max_size=4),
)
@settings(max_examples=500, deadline=None)
def test_stops_are_found_as_if_the_text_were_whole(parts: list[str], stops: list[str]) -> None:
    text = "".join(parts)
    expected, expected_stop = naive(text, stops)
    matcher = StopMatcher(stops)
    shown = ""
    for i, part in enumerate(parts):
        safe, hit = matcher.push(part)
        shown += safe
        assert expected.startswith(shown)
        assert hit in (None, expected_stop)
        # Nothing is held back that cannot begin a stop string.
        if hit is None:
            rest = "".join(parts[: i + 1])[len(shown) :]
            assert not rest or any(stop.startswith(rest) or rest.startswith(stop) or rest in stop for stop in stops)
    shown += matcher.flush()
    assert (shown, matcher.hit) == (expected, expected_stop)


def test_a_stop_is_reported_as_soon_as_it_is_certain() -> None:
    matcher = StopMatcher(["</s>", "User:"])
    assert matcher.push("Hi <") == ("Hi ", None)
    assert matcher.push("b> Us") == ("<b> ", None)
    assert matcher.push("er: more") == ("", "User:")
    assert matcher.push("ignored") == ("", "User:")
    assert matcher.flush() == ""


def test_without_stops_everything_passes_at_once() -> None:
    matcher = StopMatcher(["", ""])
    assert matcher.push("abc") == ("abc", None)
    assert matcher.flush() == ""
