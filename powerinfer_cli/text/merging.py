"""Pairwise merging, which SentencePiece and byte-level BPE share, and the cache of words that makes it fast."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush

__all__ = ["WordCache", "merge_symbols"]

CACHED_WORDS = 1 << 16
LONGEST_CACHED = 64

_Entry = tuple[float, int, int, int]  # rank, left, right, length of both


def merge_symbols(symbols: list[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """Merge neighbours, lowest rank first and leftmost among equals, until no pair has a rank.

    `rank(left, right)` is None for a pair that does not merge. Symbols are not empty. Takes O(n log n).
    """
    symbols = list(symbols)
    count = len(symbols)
    before = list(range(-1, count - 1))
    after = [*range(1, count), -1]
    heap: list[_Entry] = []
    for i in range(count - 1):
        found = rank(symbols[i], symbols[i + 1])
        if found is not None:
            heap.append((found, i, i + 1, len(symbols[i]) + len(symbols[i + 1])))
    heapify(heap)
    while heap:
        _, left, right, length = heappop(heap)
        first, second = symbols[left], symbols[right]
        # Symbols only grow or vanish, so the pair is still the one that was ranked if its length is.
        if not first or not second or len(first) + len(second) != length:
            continue
        merged = symbols[left] = first + second
        symbols[right] = ""
        following = after[left] = after[right]
        if following >= 0:
            before[following] = left
            found = rank(merged, symbols[following])
            if found is not None:
                heappush(heap, (found, left, following, length + len(symbols[following])))
        preceding = before[left]
        if preceding >= 0:
            found = rank(symbols[preceding], merged)
            if found is not None:
                heappush(heap, (found, preceding, left, len(symbols[preceding]) + length))
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
