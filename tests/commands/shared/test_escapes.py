"""Escapes in prompts."""

import pytest

from powerinfer_cli.commands.shared.escapes import process_escapes


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (r"a\nb\tc\rd", "a\nb\tc\rd"),
        (r"\\n", r"\n"),
        (r"\'\"", "'\""),
        (r"\x41\x7a", "Az"),
        (r"\xe2\x82\xac", "€"),
        (r"caf\xc3\xa9", "café"),
        (r"\x4", r"\x4"),
        (r"\xzz", r"\xzz"),
        (r"\q and \ ", r"\q and \ "),
        ("ends in \\", "ends in \\"),
        ("", ""),
    ],
)
def test_escapes(given: str, text: str) -> None:
    assert process_escapes(given) == text


def test_bytes_that_are_no_utf8_pass_as_bytes() -> None:
    assert process_escapes(r"\xff").encode("utf-8", "surrogateescape") == b"\xff"
