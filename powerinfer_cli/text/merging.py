"""Pairwise merging, which SentencePiece and byte-level BPE share, and the cache of words that makes it fast."""

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from itertools import pairwise
from math import inf

__all__ = ["WordCache", "merge_few", "merge_many", "merge_symbols"]

CACHED_WORDS = 1 << 16
LONGEST_CACHED = 64

FEW = 32

_Entry = tuple[float, int, int, int]  # rank, left, right, length of both


def merge_symbols(symbols: list[str], ranks: Mapping[str, float], separator: str) -> list[str]:
    """Merge neighbours, lowest rank first and leftmost among equals, until no pair has a rank.

    `ranks`: left + separator + right -> rank, for the pairs that merge. Symbols are not empty.
    """
    return (merge_few if len(symbols) <= FEW else merge_many)(symbols, ranks, separator)


def merge_few(symbols: list[str], ranks: Mapping[str, float], separator: str) -> list[str]:
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


def merge_many(symbols: list[str], ranks: Mapping[str, float], separator: str) -> list[str]:
    """By a heap of pairs and a linked list of symbols: O(n log n)."""
    symbols = list(symbols)
    count = len(symbols)
    before = list(range(-1, count - 1))
    after = [*range(1, count), -1]
    heap: list[_Entry] = []

    def consider(left: int, right: int) -> None:
        rank = ranks.get(symbols[left] + separator + symbols[right])
        if rank is not None:
            heappush(heap, (rank, left, right, len(symbols[left]) + len(symbols[right])))

    for i in range(count - 1):
        consider(i, i + 1)
    while heap:
        _, left, right, length = heappop(heap)
        # Symbols only grow or vanish, so the pair is still the one that was ranked if its length is.
        if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != length:
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
        super().__init__()
        self._encode = encode

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = self._encode(word)
        if len(word) <= LONGEST_CACHED:
            if len(self) >= CACHED_WORDS:
                self.clear()
            self[word] = ids
        return ids
