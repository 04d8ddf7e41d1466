"""Unigrams (`tokenizer.ggml.model` = t5): of all ways to cut a text into pieces, the likeliest (Kudo 2018)."""

import re
from dataclasses import dataclass

import numpy as np

from ..characters import lenient_text
from ..metadata import Metadata, flag
from ..vocabulary import NORMAL, UNUSED, USER_DEFINED, Vocabulary
from .charsmap import Charsmap, read_charsmap
from .merging import NumberCache, WordCache
from .spm import SPACE, bridges_of, word_cutter

__all__ = ["UnigramEncoder", "UnigramForm", "read_unigram_form"]

UNKNOWN_PENALTY = 10.0  # below the least likely piece
LONGEST_PIECE = 1 << 10  # characters, of those that are looked for


@dataclass(frozen=True)
class UnigramForm:
    """How a text is brought into form. space_first: one is put before it; one_space: several are as one, and none ends
    a text.
    """

    charsmap: Charsmap
    space_first: bool
    one_space: bool

    def apply(self, text: str) -> str:
        """With ▁ for spaces."""
        found = self.charsmap.apply(text)
        if self.one_space:
            words = [word for word in found.split(" ") if word]
            return "".join(SPACE + word for word in words)
        found = found.replace(" ", SPACE)
        first = re.search(f"[^{SPACE}]", found) if self.space_first else None
        return found if first is None else found[: first.start()] + SPACE + found[first.start() :]


def read_unigram_form(metadata: Metadata) -> UnigramForm:
    """Raises PowerInferError: a map of characters that is none."""
    return UnigramForm(
        read_charsmap(metadata),
        flag(metadata, "tokenizer.ggml.add_space_prefix", True),
        flag(metadata, "tokenizer.ggml.remove_extra_whitespaces", False),
    )


class UnigramEncoder:
    """Encodes fragments of text that hold no special token."""

    def __init__(self, vocabulary: Vocabulary, unk_id: int | None, form: UnigramForm) -> None:
        kinds = np.frombuffer(vocabulary.kinds, np.uint8)
        normal = (kinds & NORMAL) > 0
        self._unk_id, self._form = unk_id, form
        self._scores = np.where(kinds & USER_DEFINED, 0.0, vocabulary.scores.astype(np.float64))
        self._penalty = float(vocabulary.scores[normal].min() if normal.any() else 0.0) - UNKNOWN_PENALTY
        usable = (kinds & (NORMAL | USER_DEFINED | UNUSED)) > 0
        ids, tokens = vocabulary.ids, vocabulary.tokens
        known = NumberCache(lambda piece: one if (one := ids.find(piece, -1)) >= 0 and usable[one] else -1)
        self._id_of = known.__getitem__
        self._longest = min(LONGEST_PIECE, int((tokens.ends - tokens.starts)[usable].max(initial=1)))
        self._cut = word_cutter(bridges_of(tokens), newlines_merge=True)
        self._cache = WordCache(self.encode_word)
        self._caches = self._cache, known

    def encode(self, fragment: bytes) -> list[int]:
        """Ids of `fragment`. Neighbours that are unknown are as one."""
        text = self._form.apply(lenient_text(fragment))
        return self._merged(self._cache.ids_of(self._cut(text))) if text else []

    def forget_words(self) -> None:
        """Drop the caches."""
        for kept in self._caches:
            kept.clear()

    def encode_word(self, text: str) -> tuple[int, ...]:
        """Ids of a text in form: by the best way to each of its characters, -1 for one that is unknown."""
        n = len(text)
        best, back, piece = [0.0] + [-np.inf] * n, [0] * (n + 1), [-1] * (n + 1)
        for begin in range(n):
            here, alone = best[begin], False
            for end in range(begin + 1, min(n, begin + self._longest) + 1):
                found = self._id_of(text[begin:end])
                if found < 0:
                    continue
                alone = alone or end == begin + 1
                if here + self._scores[found] > best[end]:
                    best[end], back[end], piece[end] = here + self._scores[found], begin, found
            if not alone and here + self._penalty > best[begin + 1]:
                best[begin + 1], back[begin + 1], piece[begin + 1] = here + self._penalty, begin, -1
        ids = []
        while n:
            ids.append(piece[n])
            n = back[n]
        return tuple(reversed(ids))

    def _merged(self, ids: list[int]) -> list[int]:
        if self._unk_id is None:
            return [one for one in ids if one >= 0]
        return [self._unk_id if one < 0 else one for i, one in enumerate(ids) if one >= 0 or i == 0 or ids[i - 1] >= 0]
