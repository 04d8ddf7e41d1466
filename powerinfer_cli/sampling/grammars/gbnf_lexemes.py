"""Which parts of a GBNF grammar can be lexemes: regular expressions that llguidance matches far faster than rules.

Its lexer is greedy: of what can match, it takes the longest, and never comes back. A GBNF grammar knows no lexer. Both
agree where a lexeme's end is plain from the next character: where no text that is a whole lexeme L can go on, within
some lexeme M that is expected at the same place, by a character that may also follow L in the grammar. So the largest
regular parts are tried first, and each M for which that fails is divided, down to single characters, which nothing can
go wrong with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from powerinfer_cli.sampling.grammars.gbnf_automaton import MOST_BITS, Classes, bits_of, positions_of, union
from powerinfer_cli.sampling.grammars.gbnf_budget import Budget, SpentError
from powerinfer_cli.sampling.grammars.gbnf_follow import Follows, follows
from powerinfer_cli.sampling.grammars.gbnf_syntax import Alt, Chars, Node, Ref, Repeat, Rules, Seq, Tokens

__all__ = ["Lexeme", "Shape", "lexemes_of"]

_LARGEST = 100_000  # nodes of a lexeme
_LARGEST_NAMED = 1000  # nodes of a rule that is put in place of its name
_DEEPEST = 100  # names within names that are put in place
_MOST_WORK = 500_000  # steps of looking at rules and comparing lexemes: half a second, 50 MB


@dataclass(frozen=True, match_args=False)
class Lexeme:
    """A regular expression of characters only, which does not match the empty text."""

    node: Node


Shape: TypeAlias = Lexeme | Node
"""A node whose characters are all in lexemes. (Its parts are such, too.)"""


def lexemes_of(rules: Rules) -> dict[str, Shape]:
    """The rules that `root` needs, in lexemes; single characters, where it takes too long to find better ones."""
    try:
        return _largest(rules, Budget(_MOST_WORK))
    except (SpentError, RecursionError):
        return _reached(rules, _characters)


def _largest(rules: Rules, budget: Budget) -> dict[str, Shape]:
    division = _Division(_Inlined(rules, budget), budget)
    while True:
        shapes = _reached(rules, division.shape)
        bad = _unsafe(shapes, budget)
        if not bad:
            return shapes
        division.divided |= bad


def _reached(rules: Rules, shape: Callable[[Node], Shape]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    waiting = ["root"]
    while waiting:
        name = waiting.pop()
        if name not in shapes:
            shapes[name] = shape(rules[name])
            waiting += _refs(shapes[name])
    return shapes


def _characters(node: Node) -> Shape:
    """Each a lexeme, and nothing put in place of a name."""
    match node:
        case Chars():
            return Lexeme(node)
        case Repeat(item=item, low=low, high=high):
            return Repeat(_characters(item), low, high)  # type: ignore[arg-type]  # parts are shapes
        case Alt(items=items):
            return Alt(tuple(_characters(item) for item in items))  # type: ignore[misc]  # likewise
        case Seq(items=items):
            return Seq(tuple(_characters(item) for item in items))  # type: ignore[misc]  # likewise
    return node


class _Inlined:
    """Nodes with the rules that they name put in their place, where that gives a regular expression."""

    def __init__(self, rules: Rules, budget: Budget) -> None:
        self._rules = rules
        self._budget = budget
        self._named: dict[str, tuple[Node, int] | None] = {}
        self._known: dict[int, tuple[Node, int] | None] = {}  # by the id of a node of `rules`

    def __call__(self, node: Node, level: int = 0) -> tuple[Node, int] | None:
        """The expression and its size; None where a rule needs itself, or tokens, or it is too large."""
        if id(node) not in self._known:
            self._budget.spend()
            self._known[id(node)] = self._look(node, level)
        return self._known[id(node)]

    def _look(self, node: Node, level: int) -> tuple[Node, int] | None:
        match node:
            case Chars():
                return node, 1
            case Tokens():
                return None
            case Ref(name=name):
                if name not in self._named:
                    self._named[name] = None  # while it is looked at: if it needs itself
                    if level < _DEEPEST:
                        self._named[name] = self(self._rules[name], level + 1)
                found = self._named[name]
                return None if found is None or found[1] > _LARGEST_NAMED else found
            case Repeat(item=item, low=low, high=high):
                inner = self(item, level)
                # A repetition of a large thing is spelt out by whoever builds automata of it.
                size = 0 if inner is None else inner[1] * max(low, high or 1, 1)
                return None if inner is None or size > _LARGEST else (Repeat(inner[0], low, high), size + 1)
            case Seq(items=items) | Alt(items=items):
                parts = [self(item, level) for item in items]
                whole = [part for part in parts if part is not None]
                size = sum(part[1] for part in whole) + 1
                if len(whole) < len(parts) or size > _LARGEST:
                    return None
                nodes = tuple(part[0] for part in whole)
                return (Seq(nodes) if isinstance(node, Seq) else Alt(nodes)), size


class _Division:
    """Rules in the largest lexemes that are not `divided`."""

    def __init__(self, inlined: _Inlined, budget: Budget) -> None:
        self.divided: set[Node] = set()
        self._inlined, self._budget = inlined, budget
        # By ids of nodes, all of which live as long as this: what they match but the empty text, and whether that.
        self._full: dict[int, Node | None] = {}
        self._nullable: dict[int, bool] = {}
        self._runs: dict[tuple[int, ...], Node] = {}

    def shape(self, node: Node) -> Shape:
        self._budget.spend()
        regular = self._inlined(node)
        if regular is not None:
            return self._divide(regular[0])
        match node:
            case Repeat(item=item, low=low, high=high):
                return Repeat(self.shape(item), low, high)  # type: ignore[arg-type]  # parts are shapes
            case Alt(items=items):
                return Alt(tuple(self.shape(item) for item in items))  # type: ignore[misc]  # likewise
            case Seq(items=items):
                return Seq(tuple(self._in_runs(items)))  # type: ignore[arg-type]  # likewise
        return node

    def _in_runs(self, items: tuple[Node, ...]) -> Iterator[Shape]:
        """Neighbours that are regular go together."""
        run: list[Node] = []
        for item in items:
            regular = self._inlined(item)
            if regular is not None:
                run.append(regular[0])
                continue
            if run:
                yield self._divide(self._run(run))
                run = []
            yield self.shape(item)
        if run:
            yield self._divide(self._run(run))

    def _run(self, items: list[Node]) -> Node:
        self._budget.spend(len(items))
        return items[0] if len(items) == 1 else self._runs.setdefault(tuple(map(id, items)), Seq(tuple(items)))

    def _divide(self, node: Node) -> Shape:
        """A regular expression as the largest lexemes that are not to be divided."""
        self._budget.spend()
        full = self._nonempty(node)
        if full is not None and full not in self.divided:
            lexeme = Lexeme(full)
            return Repeat(lexeme, 0, 1) if self._may_be_empty(node) else lexeme  # type: ignore[arg-type]  # likewise
        match node:
            case Seq(items=items):
                return Seq(tuple(self._divide(item) for item in items))  # type: ignore[misc]  # parts are shapes
            case Alt(items=items):
                return Alt(tuple(self._divide(item) for item in items))  # type: ignore[misc]  # likewise
            case Repeat(item=item, low=low, high=high):
                return Repeat(self._divide(item), low, high)  # type: ignore[arg-type]  # likewise
        return Lexeme(node)

    def _may_be_empty(self, node: Node) -> bool:
        if id(node) not in self._nullable:
            self._budget.spend()
            self._nullable[id(node)] = self._look_empty(node)
        return self._nullable[id(node)]

    def _look_empty(self, node: Node) -> bool:
        match node:
            case Seq(items=items):
                return all(self._may_be_empty(item) for item in items)
            case Alt(items=items):
                return any(self._may_be_empty(item) for item in items)
            case Repeat(item=item, low=low):
                return low == 0 or self._may_be_empty(item)
        return False

    def _nonempty(self, node: Node) -> Node | None:
        """What `node` matches but the empty text; None where that is nothing, or not easily said."""
        if id(node) not in self._full:
            self._budget.spend()
            self._full[id(node)] = self._look_nonempty(node)
        return self._full[id(node)]

    def _look_nonempty(self, node: Node) -> Node | None:
        match node:
            case Seq(items=items):
                return None if all(self._may_be_empty(item) for item in items) else node
            case Alt(items=items):
                full = [self._nonempty(item) for item in items if item != Seq(())]
                kept = tuple(item for item in full if item is not None)
                return None if not kept or len(kept) < len(full) else kept[0] if len(kept) == 1 else Alt(kept)
            case Repeat(item=item, low=low, high=high):
                inner = self._nonempty(item)
                if inner is None or high == 0:
                    return None
                return Repeat(inner, 1 if self._may_be_empty(item) else max(low, 1), high)
        return node


def _unsafe(shapes: Mapping[str, Shape], budget: Budget) -> set[Node]:
    """The lexemes that must be divided. Raises SpentError."""
    leaves = [*dict.fromkeys(leaf for shape in shapes.values() for leaf in _leaves(shape))]
    if len(leaves) > MOST_BITS:
        raise SpentError
    nodes = [leaf.node if isinstance(leaf, Lexeme) else None for leaf in leaves]
    divisible: set[Node] = {node for node in nodes if node is not None and not isinstance(node, Chars)}
    if not divisible:
        return divisible
    following = follows(shapes, leaves, budget)
    classes = Classes([node for node in nodes if node is not None], budget)
    automata = [None if node is None else positions_of(node, classes, budget) for node in nodes]
    first_chars = [-1 if one is None else one.first_chars for one in automata]
    together = _together(following, first_chars, budget)
    behind = {
        leaves: union(first_chars[k] for k in bits_of(leaves) if automata[k] is not None)
        for leaves in set(following.behind)
    }
    unsafe: set[Node] = set()
    for long, node, companions in zip(automata, nodes, together, strict=True):
        if long is not None and node is not None and node in divisible:
            wholes = ((automata[j], behind[following.behind[j]]) for j in bits_of(companions))
            if any(whole and chars and whole.goes_on_within(long, budget) & chars for whole, chars in wholes):
                unsafe.add(node)
    return unsafe


def _together(following: Follows, first_chars: list[int], budget: Budget) -> list[int]:
    """For each leaf, those that can be expected at the same place, as bits. Raises SpentError.

    Those that begin the grammar are, and all that follow two leaves that are and may match the same text.
    """
    found = [0] * len(first_chars)
    waiting = [(following.start, following.start)]
    seen = set(waiting)
    while waiting:
        some, others = waiting.pop()
        for i in bits_of(some):
            new = others & ~found[i]
            found[i] |= others
            budget.spend()
            for j in bits_of(new):
                budget.spend()
                if first_chars[i] & first_chars[j]:
                    pair = following.behind[i], following.behind[j]
                    if pair not in seen:
                        seen.update((pair, pair[::-1]))
                        waiting += [pair, pair[::-1]]
    return found


def _leaves(shape: Shape) -> Iterator[Lexeme | Tokens]:
    """From left to right."""
    waiting = [shape]
    while waiting:
        match waiting.pop():
            case Lexeme() | Tokens() as leaf:
                yield leaf
            case Seq(items=items) | Alt(items=items):
                waiting += reversed(items)
            case Repeat(item=item):
                waiting.append(item)


def _refs(shape: Shape) -> Iterator[str]:
    """From left to right."""
    waiting = [shape]
    while waiting:
        match waiting.pop():
            case Ref(name=name):
                yield name
            case Seq(items=items) | Alt(items=items):
                waiting += reversed(items)
            case Repeat(item=item):
                waiting.append(item)
