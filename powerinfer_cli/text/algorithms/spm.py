"""SentencePiece-style encoding (`tokenizer.ggml.model` = llama): best-scored pairs merge, the rest falls to bytes."""

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import Strings

from ..characters import bytes_of, spm_text
from ..text_index import TextIndex
from .merging import NEVER, NumberCache, WordCache, merge_symbols

__all__ = ["SPACE", "SpmEncoder", "bridges_of", "word_cutter"]

SPACE = "\u2581"
"""Stands for a space in the vocabulary."""

_SPACE_BYTES = SPACE.encode()


def bridges_of(pieces: Strings) -> set[str]:
    """The characters other than ▁ that stand before a ▁ within some piece. Spaces are passed over: merges have one
    between left and right, and a text none.
    """
    data = np.frombuffer(pieces.data, np.uint8)
    at = _spaces_at(data)
    begins = np.zeros(len(data), bool)
    begins[pieces.starts] = True
    before = at[~begins[at]] - 1
    before -= data[before] == ord(" ")
    ends_in_space = np.zeros(len(data), bool)
    ends_in_space[at + 2] = True
    before = before[~ends_in_space[before]]
    fours = np.unique(np.ndarray((len(data) - 3,), "<u4", buffer=pieces.data, strides=(1,))[before - 3])
    return {four.tobytes().decode("utf-8", "replace")[-1] for four in fours}


def _spaces_at(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Where a ▁ begins."""
    found = data[:-2] == _SPACE_BYTES[0]
    for i in (1, 2):
        found &= data[i : len(found) + i] == _SPACE_BYTES[i]
    return np.flatnonzero(found)


def word_cutter(bridges: set[str], *, newlines_merge: bool) -> Callable[[str], list[str]]:
    """A function that cuts a text into words which no merge can join.

    A merge across `x|▁` would make a piece that holds `x▁`. So a text may be cut before every ▁ whose predecessor is
    no such x, which is in `bridges`, and not ▁ itself; the words then merge on their own as they would in the whole
    text. Where newlines do not merge they are words too, so that a word is the same with and without one after it.
    """
    if bridges:
        no_cut = "".join(re.escape(bridge) for bridge in sorted(bridges))
        return re.compile(f"(?<=[^{SPACE}{no_cut}])(?={SPACE})").split
    if newlines_merge:
        return re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+").findall
    return re.compile(f"{SPACE}*[^{SPACE}\\n]+|{SPACE}+|\\n").findall


class SpmEncoder:
    """Encodes fragments of text that hold no special token."""

    def __init__(self, pieces: Strings, ids: TextIndex, scores: npt.NDArray[np.float32], unk_id: int | None) -> None:
        """`ids`: of all pieces; `scores`: [n_vocab]."""
        self._ids = ids
        known = NumberCache(lambda piece: ids.find(piece, -1))
        id_of, ranks = known.__getitem__, _ranks(scores).data

        def rank_of(piece: str) -> int:
            found = id_of(piece)
            return ranks[found] if found >= 0 else NEVER

        known_ranks = NumberCache(rank_of)
        self._id_of, self._rank_of = id_of, known_ranks.__getitem__
        self._unk_id = unk_id
        n_newlines = np.count_nonzero(np.frombuffer(pieces.data, np.uint8) == ord("\n"))
        self._cut = word_cutter(bridges_of(pieces), newlines_merge=bool(n_newlines > ("\n" in ids)))
        self._cache = WordCache(self.encode_word)
        self._caches = self._cache, known, known_ranks

    def encode(self, fragment: bytes) -> list[int]:
        """Ids of `fragment`, whose spaces become ▁."""
        text = spm_text(fragment.replace(b" ", SPACE.encode()))
        return self._cache.ids_of(self._cut(text))

    def forget_words(self) -> None:
        """Drop the caches."""
        for kept in self._caches:
            kept.clear()

    def encode_word(self, text: str) -> tuple[int, ...]:
        """Ids of an escaped text, taken as one word whatever it holds."""
        ids: list[int] = []
        for symbol in merge_symbols(text, self._rank_of, separator=""):
            found = self._id_of(symbol)
            if found < 0:
                ids.extend(map(self._byte_id, bytes_of(symbol)))
            else:
                ids.append(found)
        return tuple(ids)

    def _byte_id(self, byte: int) -> int:
        found = self._ids.get(f"<0x{byte:02X}>")
        if found is None and byte < 0x80:
            found = self._ids.get(chr(byte))
        if found is None:
            found = self._unk_id
        if found is None:
            raise PowerInferError(
                f"the vocabulary has no token for the byte 0x{byte:02X}: no <0x{byte:02X}> and no unknown token"
            )
        return found


def _ranks(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """uint32 [n_vocab], in the opposite order of the scores: their bits, of which those of negative ones count down."""
    bits = (-scores + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
