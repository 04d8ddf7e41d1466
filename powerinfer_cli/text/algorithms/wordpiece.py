"""WordPiece (`tokenizer.ggml.model` = bert): words without case and accents, cut into the longest pieces there are.

A vocabulary of llama.cpp's has ▁ before pieces that begin a word, and nothing before others.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from ..characters import lenient_text
from ..metadata import Metadata, flag
from ..text_index import TextIndex
from .merging import NumberCache, WordCache
from .spm import SPACE

__all__ = ["Normalizer", "WordPieceEncoder", "read_normalizer"]

LONGEST_WORD = 100  # characters: a longer one is unknown, as in the original
CHINESE = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)),
    *((0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
"""First and last code points of blocks whose characters are words; one begins late in the original, too."""


@dataclass(frozen=True)
class Normalizer:
    lowercase: bool
    strip_accents: bool

    def words(self, text: str) -> list[str]:
        """White space, punctuation and Chinese characters part words; the latter two are words (Devlin et al. 2018)."""
        clean = text.translate(_CLEAN)
        if self.strip_accents:
            clean = unicodedata.normalize("NFD", clean).translate(_UNMARKED)
        if self.lowercase:
            clean = clean.translate(_LOWER)
        return clean.translate(_PARTED).split(" ")


def read_normalizer(metadata: Metadata) -> Normalizer:
    """Accents go with the case, unless the file says otherwise."""
    lowercase = flag(metadata, "tokenizer.ggml.normalizer.lowercase", True)
    return Normalizer(lowercase, flag(metadata, "tokenizer.ggml.normalizer.strip_accents", lowercase))


class WordPieceEncoder:
    """Encodes fragments of text that hold no special token."""

    def __init__(self, ids: TextIndex, unk_id: int | None, normalizer: Normalizer) -> None:
        known = NumberCache(lambda piece: ids.find(piece, -1))
        self._id_of, self._normalizer = known.__getitem__, normalizer
        self._unknown = () if unk_id is None else (unk_id,)
        self._cache = WordCache(self.encode_word)
        self._caches = self._cache, known

    def encode(self, fragment: bytes) -> list[int]:
        """Ids of `fragment`."""
        return self._cache.ids_of([word for word in self._normalizer.words(lenient_text(fragment)) if word])

    def forget_words(self) -> None:
        """Drop the caches."""
        for kept in self._caches:
            kept.clear()

    def encode_word(self, word: str) -> tuple[int, ...]:
        """The longest piece that it begins with, then the longest of the rest; unknown where there is none."""
        if len(word) > LONGEST_WORD:
            return self._unknown
        ids, begin, text = list[int](), 0, SPACE + word
        while begin < len(text):
            ends = range(len(text), max(begin, len(SPACE)), -1)
            found = next(((one, end) for end in ends if (one := self._id_of(text[begin:end])) >= 0), None)
            if found is None or (begin and text[begin] == SPACE):  # a piece that begins a word
                return self._unknown
            ids.append(found[0])
            begin = found[1]
        return tuple(ids)


class _Characters(dict[int, str]):
    """What each character becomes, found on demand."""

    def __init__(self, becomes: Callable[[str], str]) -> None:
        super().__init__()
        self._becomes = becomes

    def __missing__(self, point: int) -> str:
        found = self[point] = self._becomes(chr(point))
        return found


def _cleaned(c: str) -> str:
    if c in "\t\n\r" or (c.isspace() and unicodedata.category(c) != "Cc"):
        return " "
    if c == "\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs"):
        return ""
    return f" {c} " if any(first <= ord(c) <= last for first, last in CHINESE) else c


def _unmarked(c: str) -> str:
    return "" if unicodedata.category(c) == "Mn" else c


def _parted(c: str) -> str:
    ascii_symbol = c.isascii() and c.isprintable() and not c.isalnum() and c != " "
    return f" {c} " if ascii_symbol or unicodedata.category(c)[0] == "P" else c


_CLEAN, _UNMARKED, _LOWER, _PARTED = map(_Characters, (_cleaned, _unmarked, str.lower, _parted))
