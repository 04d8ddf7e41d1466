"""Cutting special tokens out of a text before the rest is tokenized."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

__all__ = ["Partition", "SpecialText"]

_BEGINNING = 3  # bytes
_SPACES = b" \t\n\v\f\r"


@dataclass(frozen=True)
class SpecialText:
    """A token that is found by its text."""

    id: int
    text: bytes  # not empty
    lstrip: bool  # swallows the white space before it
    rstrip: bool  # and after it


class Partition:
    """Cuts special tokens out of texts.

    Each in turn is cut out of all fragments that are left, so the order of `specials` decides which one wins where two
    overlap.
    """

    def __init__(self, specials: Sequence[SpecialText]) -> None:
        # Vocabularies with thousands of specials exist, but their beginnings are few: looking for those first is fast.
        self._by_beginning: dict[bytes, list[tuple[int, SpecialText]]] = {}
        for place, special in enumerate(specials):
            self._by_beginning.setdefault(special.text[:_BEGINNING], []).append((place, special))

    def cut(self, text: bytes) -> list[bytes | int]:
        """Fragments of text and ids of special tokens, in order."""
        fragments: list[bytes | int] = [text] if text else []
        near = [group for beginning, group in self._by_beginning.items() if beginning in text]
        here = [(place, special) for group in near for place, special in group if special.text in text]
        for _, special in sorted(here, key=itemgetter(0)):
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
