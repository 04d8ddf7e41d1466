"""A SentencePiece-style vocabulary of made-up words."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["Vocabulary", "make_vocabulary"]

SPACE = "\u2581"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIGNS = SPACE + LETTERS + LETTERS.upper() + "0123456789.,!?'\"-:;()\n"
SYLLABLES = [consonant + vowel for consonant in "bcdfghklmnprstvw" for vowel in "aeiou"]
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # GGUF's token types


@dataclass(frozen=True)
class Vocabulary:
    """Pieces with their scores and types; id 0 is unknown, 1 begins a text, 2 ends it."""

    pieces: list[str]
    scores: list[float]
    types: list[int]


def make_vocabulary(size: int, seed: int) -> Vocabulary:
    """3 specials, 256 bytes, letters and signs, then words; `size` pieces, or the first of these."""
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256
    wanted = max(size - len(special), 0)
    normal: dict[str, float] = dict.fromkeys(SIGNS, -1000.0)
    words = _beginnings(np.random.default_rng(seed))
    while len(normal) < wanted:
        piece = next(words)
        normal.setdefault(piece, -float(len(normal)))
    chosen = list(normal)[:wanted]
    pieces = (special + chosen)[:size]
    scores = ([0.0] * len(special) + [normal[piece] for piece in chosen])[:size]
    return Vocabulary(pieces, scores, (types + [NORMAL] * len(chosen))[:size])


def _beginnings(rng: np.random.Generator) -> Iterator[str]:
    """All beginnings of made-up words, without end: merges of two pieces reach a word only through them."""
    while True:
        word = "".join(rng.choice(SYLLABLES, rng.integers(1, 5)))
        for end in range(2, len(word) + 1):
            yield word[:end]
            yield SPACE + word[:end]
