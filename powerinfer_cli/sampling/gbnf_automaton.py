"""Regular expressions as automata, only as far as it takes to say how their texts can go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from powerinfer_cli.sampling.gbnf_syntax import Alt, Chars, Node, Repeat, Seq

__all__ = ["Budget", "Classes", "Positions", "bits_of", "positions_of", "union"]


@dataclass
class Budget:
    """Work that may still be done."""

    left: int

    @property
    def empty(self) -> bool:
        return self.left <= 0


def bits_of(bits: int) -> Iterator[int]:
    """The numbers whose bits are set."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def union(sets: Iterable[int]) -> int:
    return reduce(or_, sets, 0)


class Classes:
    """Sets of characters as bits of an int: one for each class of characters that `nodes` treat alike."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        chars = {part for node in nodes for part in _chars(node)}
        borders = sorted({edge for one in chars for low, high in one.ranges for edge in (low, high + 1)})
        index = {edge: i for i, edge in enumerate(borders)}
        self._bits = {one: sum((1 << index[high + 1]) - (1 << index[low]) for low, high in one.ranges) for one in chars}

    def bits(self, chars: Chars) -> int:
        return self._bits[chars]


def _chars(node: Node) -> Iterator[Chars]:
    match node:
        case Chars():
            yield node
        case Seq(items) | Alt(items):
            for item in items:
                yield from _chars(item)
        case Repeat(item, _, _):
            yield from _chars(item)


@dataclass
class Positions:
    """Glushkov's automaton: a state for each place of a character. Places are numbers, sets of them lists.

    How often something is repeated is left out: from twice on, it counts as any number of times. That adds texts, and
    so at most divides what could have stayed whole.
    """

    chars: list[int]  # of each place, as Classes have them
    next: list[set[int]]  # the places behind each place
    first: set[int]
    last: set[int]

    @property
    def first_chars(self) -> int:
        return union(self.chars[place] for place in self.first)

    def goes_on_within(self, other: Positions, budget: Budget) -> int:
        """The characters by which a whole text of this one can go on and still begin one of `other`.

        All of them (-1) once the budget is spent.
        """
        found = 0
        waiting = [(frozenset(self.first), frozenset(other.first))]
        seen = set(waiting)
        while waiting:
            mine, its = waiting.pop()
            budget.left -= len(mine) + len(its)
            for places, others in self._by_class(mine, other, its):
                budget.left -= len(places) + len(others)
                if budget.empty:
                    return -1
                if not self.last.isdisjoint(places):
                    found |= union(other.chars[k] for place in others for k in other.next[place])
                after = self._behind(places), other._behind(others)
                if all(after) and after not in seen:
                    seen.add(after)
                    waiting.append(after)
        return found

    def _by_class(
        self, mine: frozenset[int], other: Positions, its: frozenset[int]
    ) -> Iterator[tuple[list[int], list[int]]]:
        """For each class of characters that both go on with, the places that it brings both to."""
        common = union(self.chars[place] for place in mine) & union(other.chars[place] for place in its)
        sorted_places: dict[int, tuple[list[int], list[int]]] = {bit: ([], []) for bit in bits_of(common)}
        for place in mine:
            for bit in bits_of(self.chars[place] & common):
                sorted_places[bit][0].append(place)
        for place in its:
            for bit in bits_of(other.chars[place] & common):
                sorted_places[bit][1].append(place)
        yield from sorted_places.values()

    def _behind(self, places: list[int]) -> frozenset[int]:
        return frozenset().union(*(self.next[place] for place in places))


@dataclass(frozen=True)
class _Part:
    first: set[int]
    last: set[int]
    nullable: bool


def positions_of(node: Node, classes: Classes) -> Positions:
    chars: list[int] = []
    behind: list[set[int]] = []

    def visit(node: Node) -> _Part:
        match node:
            case Chars():
                chars.append(classes.bits(node))
                behind.append(set())
                place = {len(chars) - 1}
                return _Part(place, place, False)
            case Alt(items):
                parts = [visit(item) for item in items]
                first, last = (set().union(*sets) for sets in ([p.first for p in parts], [p.last for p in parts]))
                return _Part(first, last, any(p.nullable for p in parts))
            case Repeat(item, low, high):
                part = visit(item)
                if high is None or high > 1:
                    _join(behind, part.last, part.first)
                return _Part(part.first, part.last, low == 0 or part.nullable)
            case Seq(items):
                whole = _Part(set(), set(), True)
                for item in items:
                    part = visit(item)
                    _join(behind, whole.last, part.first)
                    whole = _Part(
                        whole.first | part.first if whole.nullable else whole.first,
                        whole.last | part.last if part.nullable else part.last,
                        whole.nullable and part.nullable,
                    )
                return whole
            case _:
                raise TypeError(node)

    part = visit(node)
    return Positions(chars, behind, part.first, part.last)


def _join(behind: list[set[int]], last: set[int], first: set[int]) -> None:
    for place in last:
        behind[place] |= first
