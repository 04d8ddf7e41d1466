"""Pairwise merging, which SentencePiece and byte-level BPE share, and the cache of words that makes it fast."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from inspect import ismethod
from itertools import chain, pairwise
from math import inf
from weakref import WeakMethod

__all__ = ["WordCache", "merge_few", "merge_many", "merge_symbols"]

CACHED_WORDS = 1 << 16
LONGEST_CACHED = 64
AT_ONCE = 1 << 12  # words of the cache that are looked up while all other threads wait

FEW = 32

_HALF = 2**32 - 1


def merge_symbols(symbols: list[str], ranks: Mapping[str, int], separator: str) -> list[str]:
    """Merge neighbours, lowest rank first and leftmost among equals, until no pair has a rank.

    `ranks`: left + separator + right -> rank, 0 or more, for the pairs that merge. Symbols are not empty.
    """
    return (merge_few if len(symbols) <= FEW else merge_many)(symbols, ranks, separator)


def merge_few(symbols: list[str], ranks: Mapping[str, int], separator: str) -> list[str]:
    """By scanning all pairs for the best: quadratic, and the faster way for the length of a word."""
    symbols = list(symbols)
    get = ranks.get
    found = [get(left + separator + right, inf) for left, right in pairwise(symbols)]
    found.append(inf)
    while (best := min(found)) < inf:
        i = found.index(best)
        symbols[i] += symbols.pop(i + 1)
        del found[i]
        if i + 1 < len(symbols):
            found[i] = get(symbols[i] + separator + symbols[i + 1], inf)
        if i:
            found[i - 1] = get(symbols[i - 1] + separator + symbols[i], inf)
    return symbols


def merge_many(symbols: list[str], ranks: Mapping[str, int], separator: str) -> list[str]:
    """By a heap of pairs and a linked list of symbols: O(n log n), and some 70 bytes a symbol."""
    symbols = list(symbols)
    count = len(symbols)
    before = array("q", range(-1, count - 1))
    after = array("q", range(1, count))
    after.append(-1)
    heap: list[int] = []  # rank, left and the length of both, in one number: a tuple takes three times as much

    def consider(left: int, right: int) -> None:
        rank = ranks.get(symbols[left] + separator + symbols[right])
        if rank is not None:
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
