"""Pairwise merging, which SentencePiece and byte-level BPE share, and the cache of words that makes it fast."""

from array import array
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from inspect import ismethod
from itertools import chain, pairwise
from typing import TypeAlias
from weakref import WeakMethod

__all__ = ["NEVER", "NumberCache", "WordCache", "merge_few", "merge_many", "merge_symbols"]

RankOf: TypeAlias = Callable[[str], int]

NEVER = 1 << 40
"""Above every rank."""

CACHED_WORDS = 1 << 16
CACHED_NUMBERS = 1 << 17
LONGEST_CACHED = 64
AT_ONCE = 1 << 12  # words of the cache that are looked up while all other threads wait

FEW = 32

_HALF = 2**32 - 1


def merge_symbols(symbols: list[str], rank_of: RankOf, separator: str) -> list[str]:
    """Merge neighbours, lowest rank first and leftmost among equals, until no pair has a rank.

    `rank_of`: left + separator + right -> rank, 0 or more; NEVER for pairs that do not merge. Symbols are not empty.
    """
    return (merge_few if len(symbols) <= FEW else merge_many)(symbols, rank_of, separator)


def merge_few(symbols: list[str], rank_of: RankOf, separator: str) -> list[str]:
    """By scanning all pairs for the best: quadratic, and the faster way for the length of a word."""
    symbols = list(symbols)
    found = [rank_of(left + separator + right) for left, right in pairwise(symbols)]
    found.append(NEVER)
    while (best := min(found)) < NEVER:
        i = found.index(best)
        symbols[i] += symbols.pop(i + 1)
        del found[i]
        if i + 1 < len(symbols):
            found[i] = rank_of(symbols[i] + separator + symbols[i + 1])
        if i:
            found[i - 1] = rank_of(symbols[i - 1] + separator + symbols[i])
    return symbols


def merge_many(symbols: list[str], rank_of: RankOf, separator: str) -> list[str]:
    """By a heap of pairs and a linked list of symbols: O(n log n), and some 70 bytes a symbol."""
    symbols = list(symbols)
    count = len(symbols)
    before = array("q", range(-1, count - 1))
    after = array("q", range(1, count))
    after.append(-1)
    heap: list[int] = []  # rank, left and the length of both, in one number: a tuple takes three times as much

    def consider(left: int, right: int) -> None:
        rank = rank_of(symbols[left] + separator + symbols[right])
        if rank < NEVER:
            heappush(heap, rank << 64 | left << 32 | len(symbols[left]) + len(symbols[right]))

    for i in range(count - 1):
        consider(i, i + 1)
    while heap:
        pair = heappop(heap)
        left, length = pair >> 32 & _HALF, pair & _HALF
        right = after[left]
        # Symbols only grow or vanish, so the pair is still the one that was ranked if its length is.
        if not symbols[left] or right < 0 or len(symbols[left]) + len(symbols[right]) != length:
            continue
        symbols[left] += symbols[right]
        symbols[right] = ""
        following = after[left] = after[right]
        if following >= 0:
            before[following] = left
            consider(left, following)
        if before[left] >= 0:
            consider(before[left], left)
    return [symbol for symbol in symbols if symbol]


class NumberCache(dict[str, int]):
    """A pair's rank or a piece's id, found on demand: of many a text uses few, again and again. Bounded."""

    def __init__(self, find: Callable[[str], int]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, text: str) -> int:
        found = self._find(text)
        if len(text) <= LONGEST_CACHED:
            if len(self) >= CACHED_NUMBERS:
                self.clear()
            self[text] = found
        return found


class WordCache(dict[str, tuple[int, ...]]):
    """word -> ids, filled on demand by `encode`. Bounded: it starts afresh when full, and keeps no long words."""

    def __init__(self, encode: Callable[[str], tuple[int, ...]]) -> None:
        """`encode`: where it is a method, of whoever keeps this cache; that one is not kept by it, for it is large."""
        super().__init__()
        self._encode = WeakMethod(encode) if ismethod(encode) else lambda: encode

    def ids_of(self, words: Sequence[str]) -> list[int]:
        """The ids of all words, in their order."""
        ids: list[int] = []
        for at in range(0, len(words), AT_ONCE):
            ids.extend(chain.from_iterable(map(self.__getitem__, words[at : at + AT_ONCE])))
        return ids

    def __missing__(self, word: str) -> tuple[int, ...]:
        encode = self._encode()
        assert encode is not None
        ids: tuple[int, ...] = encode(word)
        if len(word) <= LONGEST_CACHED:
            if len(self) >= CACHED_WORDS:
                self.clear()
            self[word] = ids
        return ids
