"""Regular expressions as automata, only as far as it takes to say how their texts can go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from powerinfer_cli.sampling.grammars.gbnf_budget import Budget, SpentError
from powerinfer_cli.sampling.grammars.gbnf_syntax import Alt, Chars, Node, Repeat, Seq

__all__ = ["MOST_BITS", "Classes", "Positions", "bits_of", "positions_of", "union"]

MOST_BITS = 4096
"""Of a set that is written as an int: what is done with larger ones is no single step any more."""


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

    def __init__(self, nodes: Sequence[Node], budget: Budget) -> None:
        chars = {part for node in nodes for part in _chars(node, budget)}
        borders = sorted({edge for one in chars for low, high in one.ranges for edge in (low, high + 1)})
        if len(borders) > MOST_BITS:
            raise SpentError
        index = {edge: i for i, edge in enumerate(borders)}
        self._bits = {one: sum((1 << index[high + 1]) - (1 << index[low]) for low, high in one.ranges) for one in chars}

    def bits(self, chars: Chars) -> int:
        return self._bits[chars]


def _chars(node: Node, budget: Budget) -> Iterator[Chars]:
    waiting = [node]
    while waiting:
        budget.spend()
        match waiting.pop():
            case Chars() as chars:
                budget.spend(len(chars.ranges))
                yield chars
            case Seq(items=items) | Alt(items=items):
                waiting += items
            case Repeat(item=item):
                waiting.append(item)


_Places = frozenset[int]


@dataclass
class Positions:
    """Glushkov's automaton: a state for each place of a character, which is a number.

    How often something is repeated is left out: from twice on, it counts as any number of times. That adds texts, and
    so at most divides what could have stayed whole.
    """

    chars: list[int]  # of each place, as Classes have them
    behind: list[list[_Places]]  # for each place, what comes behind it; the sets are shared, for they may be large
    first: _Places
    last: _Places

    @property
    def first_chars(self) -> int:
        return union(self.chars[place] for place in self.first)

    def goes_on_within(self, other: Positions, budget: Budget) -> int:
        """The characters by which a whole text of this one can go on and still begin one of `other`."""
        found = 0
        waiting = [(self.first, other.first)]
        seen = set(waiting)
        while waiting:
            mine, its = waiting.pop()
            for places, others in self._by_class(mine, other, its, budget):
                my_next, its_next = self._behind(places, budget), other._behind(others, budget)
                if not self.last.isdisjoint(places):
                    found |= union(other.chars[place] for place in its_next)
                after = my_next, its_next
                if all(after) and after not in seen:
                    seen.add(after)
                    waiting.append(after)
        return found

    def _by_class(
        self, mine: _Places, other: Positions, its: _Places, budget: Budget
    ) -> Iterator[tuple[list[int], list[int]]]:
        """For each class of characters that both go on with, the places that it brings both to."""
        budget.spend(len(mine) + len(its))
        common = union(self.chars[place] for place in mine) & union(other.chars[place] for place in its)
        sorted_places: dict[int, tuple[list[int], list[int]]] = {bit: ([], []) for bit in bits_of(common)}
        for side, places, chars in ((0, mine, self.chars), (1, its, other.chars)):
            for place in places:
                for bit in bits_of(chars[place] & common):
                    budget.spend()
                    sorted_places[bit][side].append(place)
        yield from sorted_places.values()

    def _behind(self, places: list[int], budget: Budget) -> _Places:
        budget.spend(len(places))
        sets = {id(one): one for place in places for one in self.behind[place]}
        if len(sets) == 1:
            return next(iter(sets.values()))
        return _joined(sets.values(), budget)


@dataclass(frozen=True)
class _Part:
    first: _Places
    last: _Places
    nullable: bool


def positions_of(node: Node, classes: Classes, budget: Budget) -> Positions:
    """Raises SpentError."""
    chars: list[int] = []
    behind: list[list[_Places]] = []

    def join(last: _Places, first: _Places) -> None:
        budget.spend(len(last))
        for place in last:
            behind[place].append(first)

    def visit(node: Node) -> _Part:
        budget.spend()
        match node:
            case Chars():
                chars.append(classes.bits(node))
                behind.append([])
                place = frozenset([len(chars) - 1])
                return _Part(place, place, False)
            case Alt(items=items):
                parts = [visit(item) for item in items]
                first, last = (_joined(sets, budget) for sets in ([p.first for p in parts], [p.last for p in parts]))
                return _Part(first, last, any(p.nullable for p in parts))
            case Repeat(item=item, low=low, high=high):
                part = visit(item)
                if high is None or high > 1:
                    join(part.last, part.first)
                return _Part(part.first, part.last, low == 0 or part.nullable)
            case Seq(items=items):
                whole = _Part(frozenset(), frozenset(), True)
                for item in items:
                    part = visit(item)
                    join(whole.last, part.first)
                    whole = _Part(
                        _joined([whole.first, part.first], budget) if whole.nullable else whole.first,
                        _joined([whole.last, part.last], budget) if part.nullable else part.last,
                        whole.nullable and part.nullable,
                    )
                return whole
            case _:
                raise TypeError(node)

    part = visit(node)
    return Positions(chars, behind, part.first, part.last)


def _joined(sets: Iterable[_Places], budget: Budget) -> _Places:
    known = list(sets)
    budget.spend(sum(len(one) for one in known))
    return frozenset().union(*known)
