"""SentencePiece-style encoding (`tokenizer.ggml.model` = llama): best-scored pairs merge, the rest falls to bytes."""

import re
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError

from .characters import bytes_of, spm_text
from .merging import WordCache, merge_symbols

__all__ = ["BETWEEN", "SPACE", "SpmEncoder", "word_cutter"]

SPACE = "\u2581"
"""Stands for a space in the vocabulary."""


BETWEEN = "\ud800"
"""Between pieces in one text that is searched at once: no piece holds it, for it is no UTF-8."""

_BRIDGE = re.compile(f"([^{BETWEEN}{SPACE}]){SPACE}")
_MERGED_NEWLINE = re.compile(f"[^{BETWEEN}]\n|\n[^{BETWEEN}]")


def word_cutter(pieces: str, *, newlines_merge: bool) -> Callable[[str], list[str]]:
    """A function that cuts a text into words which no merge into one of `pieces`, joined by BETWEEN, can join.

    A merge across `x|▁` would make a piece that holds `x▁`. So a text may be cut before every ▁ whose predecessor is
    not such an x, and not ▁ itself; the words then merge on their own as they would in the whole text. Where newlines
    do not merge they are words too, so that a word is the same with and without one after it.
    """
    bridges = set(_BRIDGE.findall(pieces))
    if bridges:
        no_cut = "".join(re.escape(bridge) for bridge in sorted(bridges))
        return re.compile(f"(?<=[^{SPACE}{no_cut}])(?={SPACE})").split
    if newlines_merge:
        return re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+").findall
    return re.compile(f"{SPACE}*[^{SPACE}\\n]+|{SPACE}+|\\n").findall


class SpmEncoder:
    """Encodes fragments of text that hold no special token."""

    def __init__(self, ids: Mapping[str, int], scores: npt.NDArray[np.float32], unk_id: int | None) -> None:
        """`ids`: piece -> id, for every piece, in the order of `scores`; `scores`: [n_vocab]."""
        self._ids = ids
        ranks = np.unique(-scores, return_inverse=True)[1].tolist()
        self._ranks: dict[str, int] = {piece: rank for piece, rank in zip(ids, ranks, strict=True)}  # noqa: C416
        self._unk_id = unk_id
        pieces = BETWEEN.join(ids)
        self._cut = word_cutter(pieces, newlines_merge=_MERGED_NEWLINE.search(pieces) is not None)
        self._cache = WordCache(self.encode_word)

    def encode(self, fragment: bytes) -> list[int]:
        """Ids of `fragment`, whose spaces become ▁."""
        text = spm_text(fragment.replace(b" ", SPACE.encode()))
        return self._cache.ids_of(self._cut(text))

    def encode_word(self, text: str) -> tuple[int, ...]:
        """Ids of an escaped text, taken as one word whatever it holds."""
        ids: list[int] = []
        for symbol in merge_symbols(list(text), self._ranks, separator=""):
            found = self._ids.get(symbol)
            if found is None:
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
