"""A byte-fallback SentencePiece-style vocabulary: own byte-pair training, and llama.cpp's SPM segmentation.

A piece may hold U+2581 (the space) only as its first character, so a text can be segmented space by space. The score of
the n-th merge is -n: then SPM's "best-scoring neighbours first" is the order in which the merges were learned.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise

SPACE = "\u2581"
UNK, BOS, EOS = 0, 1, 2
_WORD = re.compile(f"{SPACE}?[A-Za-z]+(?:'[a-z]+)*|{SPACE}?[0-9]|{SPACE}?[^\\w\\s{SPACE}]+|{SPACE}?\n+|.", re.DOTALL)


class PieceType(IntEnum):
    """llama.cpp's token types."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    BYTE = 6


@dataclass
class Vocabulary:
    """Pieces, scores and types by id. `encode` is llama.cpp's `llama` tokenizer with add_space_prefix."""

    pieces: list[str]
    scores: list[float]
    types: list[PieceType]
    ids: dict[str, int] = field(init=False)
    _cache: dict[str, list[int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, segments: Iterable[str]) -> list[int]:
        """Ids of a text cut into control tokens and plain texts; a text gets a space in front, as llama.cpp does it."""
        out = [BOS]
        for segment in segments:
            control = self.ids.get(segment)
            if control is not None and self.types[control] == PieceType.CONTROL:
                out.append(control)
            elif segment:
                out += self._plain((" " + segment).replace(" ", SPACE))
        return out

    def _plain(self, text: str) -> list[int]:
        out: list[int] = []
        for chunk in re.findall(f"{SPACE}?[^{SPACE}]+|{SPACE}", text):
            if chunk not in self._cache:
                self._cache[chunk] = self._segment(chunk)
            out += self._cache[chunk]
        return out

    def _segment(self, chunk: str) -> list[int]:
        symbols = list(chunk)
        while True:
            best: tuple[float, int] | None = None
            for i in range(len(symbols) - 1):
                merged = self.ids.get(symbols[i] + symbols[i + 1])
                if merged is not None and (best is None or self.scores[merged] > best[0]):
                    best = (self.scores[merged], i)
            if best is None:
                return [token for symbol in symbols for token in self._symbol_ids(symbol)]
            symbols[best[1] : best[1] + 2] = [symbols[best[1]] + symbols[best[1] + 1]]

    def _symbol_ids(self, symbol: str) -> list[int]:
        if symbol in self.ids:
            return [self.ids[symbol]]
        return [self.ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids without control tokens; the first space is dropped."""
        data = b""
        for token in ids:
            if self.types[token] == PieceType.BYTE:
                data += bytes([int(self.pieces[token][3:5], 16)])
            elif self.types[token] == PieceType.NORMAL:
                data += self.pieces[token].replace(SPACE, " ").encode()
        return data.decode(errors="replace").removeprefix(" ")


def train(texts: Iterable[str], size: int, control: tuple[str, ...]) -> Vocabulary:
    """Learn a vocabulary of `size` pieces. The result depends on the texts alone."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall((" " + text).replace(" ", SPACE)))
    letters = [SPACE, "\n", *(chr(c) for c in range(0x21, 0x7F))]
    merges = _merges(counts, size - 3 - 256 - len(control) - len(letters))
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *control, *merges, *letters]
    ranked = len(merges) + len(letters)
    scores = [0.0] * (len(pieces) - ranked) + [-float(rank) for rank in range(ranked)]
    types = [PieceType.UNKNOWN] + [PieceType.CONTROL] * 2 + [PieceType.BYTE] * 256
    types += [PieceType.CONTROL] * len(control) + [PieceType.NORMAL] * ranked
    return Vocabulary(pieces, scores, types)


def _merges(counts: Counter[str], wanted: int) -> list[str]:
    """The first `wanted` byte-pair merges, by count, ties by the pair itself."""
    words = [(list(word), count) for word, count in sorted(counts.items())]
    pairs: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], set[int]] = defaultdict(set)
    for index, (symbols, count) in enumerate(words):
        for pair in pairwise(symbols):
            pairs[pair] += count
            where[pair].add(index)
    merges: dict[str, None] = {}
    while pairs and len(merges) < wanted:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.setdefault(best[0] + best[1])
        for index in sorted(where[best]):
            symbols, count = words[index]
            for pair in pairwise(symbols):
                pairs[pair] -= count
            symbols[:] = _merged(symbols, best)
            for pair in pairwise(symbols):
                pairs[pair] += count
                where[pair].add(index)
        del pairs[best]
    return list(merges)


def _merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    i = 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out
