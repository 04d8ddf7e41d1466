"""Pairwise merging, which SentencePiece and byte-level BPE share, and the cache of words that makes it fast."""

from array import array
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from inspect import ismethod
from itertools import chain, pairwise
from typing import TypeAlias
from weakref import WeakMethod

import numpy as np

__all__ = ["NEVER", "NumberCache", "WordCache", "merge_few", "merge_many", "merge_symbols"]

RankOf: TypeAlias = Callable[[str], int]

NEVER = 1 << 40
"""Above every rank."""

CACHED_WORDS = 1 << 16
CACHED_NUMBERS = 1 << 17
LONGEST_CACHED = 64
AT_ONCE = 1 << 12  # words of the cache that are looked up while all other threads wait

FEW = 32


def merge_symbols(symbols: Sequence[str], rank_of: RankOf, separator: str) -> list[str]:
    """Merge neighbours, lowest rank first and leftmost among equals, until no pair has a rank.

    `rank_of`: left + separator + right -> rank, 0 or more; NEVER for pairs that do not merge. Symbols are not empty;
    a text is its characters.
    """
    return (merge_few if len(symbols) <= FEW else merge_many)(symbols, rank_of, separator)


def merge_few(symbols: Sequence[str], rank_of: RankOf, separator: str) -> list[str]:
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


def merge_many(symbols: Sequence[str], rank_of: RankOf, separator: str) -> list[str]:
    """By queues of pairs and a linked list of symbols: O(n log n), and some 30 bytes a symbol."""
    known: dict[str, str] = {}  # every symbol is one object, however often it is there: one takes 50 bytes and more
    symbols = [known.setdefault(symbol, symbol) for symbol in symbols]
    count = len(symbols)
    before = array("i", range(-1, count - 1))
    after = array("i", range(1, count))
    after.append(-1)
    pairs = _Pairs()

    def consider(left: int, right: int) -> None:
        rank = rank_of(symbols[left] + separator + symbols[right])
        if rank < NEVER:
            pairs.put(rank, left)

    for i in range(count - 1):
        consider(i, i + 1)
    while (best := pairs.take()) is not None:
        rank, left = best
        right = after[left]
        # Its symbols may have merged with others: then it is another pair by now, or none.
        if right < 0 or not symbols[left] or rank_of(symbols[left] + separator + symbols[right]) != rank:
            continue
        merged = symbols[left] + symbols[right]
        symbols[left] = known.setdefault(merged, merged)
        symbols[right] = ""
        following = after[left] = after[right]
        after[right] = -1
        if following >= 0:
            before[following] = left
            consider(left, following)
        if before[left] >= 0:
            consider(before[left], left)
    return [symbol for symbol in symbols if symbol]


class _Pairs:
    """Places of pairs by their ranks: 4 bytes each, where a heap of numbers takes 50.

    The places of a rank are sorted when it becomes the lowest one. Pairs of that rank which are found from then on,
    which are few, wait in a heap.
    """

    def __init__(self) -> None:
        self._ranks: list[int] = []  # a heap of those that have places
        self._places: dict[int, array[int]] = {}
        self._sorted: dict[int, int] = {}  # the next place's index, of a rank whose places are sorted
        self._late: list[tuple[int, int]] = []  # a heap

    def put(self, rank: int, place: int) -> None:
        if rank in self._sorted:
            heappush(self._late, (rank, place))
        elif rank in self._places:
            self._places[rank].append(place)
        else:
            self._places[rank] = array("i", [place])
            heappush(self._ranks, rank)

    def take(self) -> tuple[int, int] | None:
        """The lowest rank and its leftmost place; None where there is none left."""
        if not self._ranks:
            return heappop(self._late) if self._late else None
        rank = self._ranks[0]
        places = self._places[rank]
        if rank not in self._sorted:
            np.frombuffer(places, np.intc).sort()
            self._sorted[rank] = 0
        index = self._sorted[rank]
        best = rank, places[index]
        if self._late and self._late[0] < best:
            return heappop(self._late)
        if index + 1 < len(places):
            self._sorted[rank] = index + 1
        else:
            heappop(self._ranks)
            del self._places[rank], self._sorted[rank]
        return best


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
