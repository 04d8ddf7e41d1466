"""Cutting special tokens out of a text before the rest is tokenized."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SpecialText", "partition"]

_BEGINNING = 3  # bytes
_SPACES = b" \t\n\v\f\r"


@dataclass(frozen=True)
class SpecialText:
    """A token that is found by its text."""

    id: int
    text: bytes  # not empty
    lstrip: bool  # swallows the white space before it
    rstrip: bool  # and after it


def partition(text: bytes, specials: Sequence[SpecialText]) -> list[bytes | int]:
    """Fragments of text and ids of special tokens, in order.

    Each special token in turn is cut out of all fragments that are left, so the order of `specials` decides which one
    wins where two overlap.
    """
    fragments: list[bytes | int] = [text] if text else []
    # Vocabularies with thousands of specials exist, but their beginnings are few: looking for those first is fast.
    beginnings = {special.text[:_BEGINNING] for special in specials}
    here = {beginning for beginning in beginnings if beginning in text}
    for special in specials:
        if special.text[:_BEGINNING] in here and special.text in text:
            fragments = [part for fragment in fragments for part in _cut_out(fragment, special)]
    return fragments


def _cut_out(fragment: bytes | int, special: SpecialText) -> list[bytes | int]:
    if isinstance(fragment, int):
        return [fragment]
    parts: list[bytes | int] = []
    start = 0
    while (found := fragment.find(special.text, start)) >= 0:
        before = fragment[start:found]
        parts += [before.rstrip(_SPACES) if special.lstrip else before, special.id]
        start = found + len(special.text)
        while special.rstrip and start < len(fragment) and fragment[start] in _SPACES:
            start += 1
    parts.append(fragment[start:])
    return [part for part in parts if part != b""]
