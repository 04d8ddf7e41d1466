"""What may follow what in a grammar, by the textbook's FIRST and FOLLOW. Sets of leaves are bits of an int."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from powerinfer_cli.sampling.grammars.gbnf_syntax import Alt, Ref, Repeat, Seq

if TYPE_CHECKING:
    from powerinfer_cli.sampling.grammars.gbnf_budget import Budget
    from powerinfer_cli.sampling.grammars.gbnf_lexemes import Lexeme, Shape
    from powerinfer_cli.sampling.grammars.gbnf_syntax import Tokens

__all__ = ["Follows", "follows"]


@dataclass(frozen=True)
class Follows:
    """start: the leaves that a text may begin with. behind: for each leaf, those that may come directly after it."""

    start: int
    behind: list[int]


def follows(shapes: Mapping[str, Shape], leaves: Sequence[Lexeme | Tokens], budget: Budget) -> Follows:
    """Of the leaves of `shapes`, among which is `root`. Raises SpentError."""
    state = _State(shapes, leaves, budget)
    return Follows(state.first["root"], state.behind)


class _State:
    """What is known so far; it grows until nothing is new."""

    def __init__(self, shapes: Mapping[str, Shape], leaves: Sequence[Lexeme | Tokens], budget: Budget) -> None:
        self._number: dict[Shape, int] = {leaf: i for i, leaf in enumerate(leaves)}
        self.first = dict.fromkeys(shapes, 0)
        self._nullable = dict.fromkeys(shapes, False)
        self._behind_rule = dict.fromkeys(shapes, 0)
        self.behind = [0] * len(leaves)
        self._budget = budget
        while self._learn_start(shapes):
            continue
        while self._learn_behind(shapes):
            continue

    def _learn_start(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether there was something to learn."""
        before = dict(self.first), dict(self._nullable)
        for name in reversed([*shapes]):  # mostly, a rule comes before those that it names
            self.first[name], self._nullable[name] = self._start(shapes[name])
        return before != (self.first, self._nullable)

    def _learn_behind(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether there was something to learn."""
        before = dict(self._behind_rule)
        for name, shape in shapes.items():
            self._walk(shape, self._behind_rule[name])
        return before != self._behind_rule

    def _start(self, shape: Shape) -> tuple[int, bool]:
        """The leaves with which `shape` begins, and whether it can be empty."""
        self._budget.spend()
        match shape:
            case Ref(name=name):
                return self.first[name], self._nullable[name]
            case Repeat(item=item, low=low):
                first, nullable = self._start(item)
                return first, nullable or low == 0
            case Alt(items=items):
                first, nullable = 0, False
                for item in items:
                    more, empty = self._start(item)
                    first, nullable = first | more, nullable or empty
                return first, nullable
            case Seq(items=items):
                first, nullable = 0, True
                for item in items:
                    more, empty = self._start(item)
                    first, nullable = first | (more if nullable else 0), nullable and empty
                return first, nullable
        return 1 << self._number[shape], False

    def _walk(self, shape: Shape, behind: int) -> None:
        """Notes that `behind` can follow `shape`."""
        self._budget.spend()
        match shape:
            case Ref(name=name):
                self._behind_rule[name] |= behind
            case Repeat(item=item, high=high):
                again = self._start(item)[0] if high is None or high > 1 else 0
                self._walk(item, behind | again)
            case Alt(items=items):
                for item in items:
                    self._walk(item, behind)
            case Seq(items=items):
                for item in reversed(items):
                    self._walk(item, behind)
                    first, nullable = self._start(item)
                    behind = first | behind if nullable else first
            case _:
                self.behind[self._number[shape]] |= behind
