"""Prompt lookup: what followed the context's last tokens when they were there before."""

from collections.abc import Mapping, Sequence

from powerinfer_cli.drafting.drafter import Draft, Wish

__all__ = ["NgramDrafter", "NgramIndex"]

_PLACES = 16  # of an n-gram that are compared, the latest first
_LONGEST = 64  # tokens of a match: longer ones are trusted alike
NONE = 0


class NgramIndex:
    """Where the n-grams of one text are."""

    def __init__(self, n: int) -> None:
        self._n, self._size = n, 0  # tokens that are known
        self._last: dict[tuple[int, ...], int] = {}  # n-gram -> the place behind its latest one
        self._before: list[int] = []  # by place: the same n-gram's place before, NONE for the first

    def forget(self, n: int) -> None:
        """Tokens from the n-th on are others."""
        if n < self._size:
            self._size = 0
            self._last.clear()
            self._before.clear()

    def learn(self, ids: Sequence[int]) -> None:
        """The text is `ids` now: what was known, and more. The n-gram at its end is not for finding yet."""
        n = self._n
        self._before += [NONE] * (len(ids) - len(self._before))
        for end in range(max(self._size, n), len(ids)):
            key = tuple(ids[end - n : end])
            self._before[end] = self._last.get(key, NONE)
            self._last[key] = end
        self._size = max(self._size, len(ids))

    def places(self, ids: Sequence[int]) -> list[int]:
        """Behind the n-grams that are as the text's end, the latest first."""
        found: list[int] = []
        place = self._last.get(tuple(ids[len(ids) - self._n :]), NONE)
        while place != NONE and len(found) < _PLACES:
            found.append(place)
            place = self._before[place]
        return found


class NgramDrafter:
    """A Drafter without a model. A kind is how long the match was: 4 to 7 tokens, 8 to 15..."""

    def __init__(self, n_sequences: int, size_n: int, size_m: int, min_hits: int = 1, cost: float = 0.0) -> None:
        """size_n: tokens that must match; of several places the one where most do is taken, the latest of equals.

        size_m: tokens that are proposed at most. min_hits: places that there must be.
        """
        self.cost = cost
        self._n, self._m, self._hits = size_n, size_m, min_hits
        self._indexes = [NgramIndex(size_n) for _ in range(n_sequences)]

    def propose(self, texts: Mapping[int, Sequence[int]], wishes: Mapping[int, Wish]) -> dict[int, Draft]:
        found = {}
        for sequence, ids in texts.items():
            index = self._indexes[sequence]
            index.learn(ids)
            places = index.places(ids)
            if len(places) < min(self._hits, _PLACES):
                continue
            matches = [_match(ids, place) for place in places]
            longest = max(matches)
            kind = longest.bit_length()
            most, place = min(wishes[sequence](kind), self._m), places[matches.index(longest)]
            if most:
                found[sequence] = Draft(continued(ids, place, most), kind)
        return found

    def forget(self, sequence: int, n: int) -> None:
        self._indexes[sequence].forget(n)

    def close(self) -> None:
        """It holds nothing."""


def _match(ids: Sequence[int], place: int) -> int:
    """How many tokens before a place are as those at the end."""
    n, most = 0, min(place, _LONGEST)
    while n < most and ids[place - 1 - n] == ids[-1 - n]:
        n += 1
    return n


def continued(ids: Sequence[int], place: int, n: int) -> list[int]:
    """n tokens from a place on; where the text ends before, it repeats itself."""
    period = len(ids) - place
    return [ids[place + i % period] for i in range(n)]
