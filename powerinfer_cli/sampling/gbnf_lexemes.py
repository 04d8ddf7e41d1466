"""Which parts of a GBNF grammar can be lexemes: regular expressions that llguidance matches far faster than rules.

Its lexer is greedy: of what can match, it takes the longest, and never comes back. A GBNF grammar knows no lexer. Both
agree where a lexeme's end is plain from the next character: where no text that is a whole lexeme L can go on, within
some lexeme M that is expected at the same place, by a character that may also follow L in the grammar. So the largest
regular parts are tried first, and each M for which that fails is divided, down to single characters, which nothing can
go wrong with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from powerinfer_cli.sampling.gbnf_automaton import Budget, Classes, bits_of, positions_of, union
from powerinfer_cli.sampling.gbnf_follow import Follows, follows
from powerinfer_cli.sampling.gbnf_syntax import Alt, Chars, Node, Ref, Repeat, Rules, Seq, Tokens

__all__ = ["Lexeme", "Shape", "lexemes_of"]

_LARGEST = 100_000  # nodes of a lexeme
_LARGEST_NAMED = 1000  # nodes of a rule that is put in place of its name
_DEEPEST = 100  # names within names that are put in place
_MOST_WORK = 1_000_000  # steps of looking at rules and comparing lexemes, about a second


@dataclass(frozen=True)
class Lexeme:
    """A regular expression of characters only, which does not match the empty text."""

    node: Node


Shape: TypeAlias = Lexeme | Node
"""A node whose characters are all in lexemes. (Its parts are such, too.)"""


def lexemes_of(rules: Rules) -> dict[str, Shape]:
    """The rules that `root` needs, in lexemes."""
    inlined = _Inlined(rules)
    divided: set[Node] = set()
    budget = Budget(_MOST_WORK)
    while True:
        shapes = _shapes(rules, inlined, divided)
        bad = _unsafe(shapes, budget)
        if not bad:
            return shapes
        divided |= bad


class _Inlined:
    """Nodes with the rules that they name put in their place, where that gives a regular expression."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._known: dict[str, tuple[Node, int] | None] = {}

    def __call__(self, node: Node, level: int = 0) -> tuple[Node, int] | None:
        """The expression and its size; None where a rule needs itself, or tokens, or it is too large."""
        match node:
            case Chars():
                return node, 1
            case Tokens():
                return None
            case Ref(name):
                if name not in self._known:
                    self._known[name] = None  # while it is looked at: if it needs itself
                    if level < _DEEPEST:
                        self._known[name] = self(self._rules[name], level + 1)
                found = self._known[name]
                return None if found is None or found[1] > _LARGEST_NAMED else found
            case Repeat(item, low, high):
                inner = self(item, level)
                # A repetition of a large thing is spelt out by whoever builds automata of it.
                size = 0 if inner is None else inner[1] * max(low, high or 1, 1)
                return None if inner is None or size > _LARGEST else (Repeat(inner[0], low, high), size + 1)
            case Seq(items) | Alt(items):
                parts = [self(item, level) for item in items]
                whole = [part for part in parts if part is not None]
                size = sum(part[1] for part in whole) + 1
                if len(whole) < len(parts) or size > _LARGEST:
                    return None
                nodes = tuple(part[0] for part in whole)
                return (Seq(nodes) if isinstance(node, Seq) else Alt(nodes)), size


def _shapes(rules: Rules, inlined: _Inlined, divided: set[Node]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    waiting = ["root"]
    while waiting:
        name = waiting.pop()
        if name not in shapes:
            shapes[name] = _shape(rules[name], inlined, divided)
            waiting += _refs(shapes[name])
    return shapes


def _shape(node: Node, inlined: _Inlined, divided: set[Node]) -> Shape:
    regular = inlined(node)
    if regular is not None:
        return _divide(regular[0], divided)
    match node:
        case Repeat(item, low, high):
            return Repeat(_shape(item, inlined, divided), low, high)  # type: ignore[arg-type]  # parts are shapes
        case Alt(items):
            return Alt(tuple(_shape(item, inlined, divided) for item in items))  # type: ignore[misc]  # likewise
        case Seq(items):
            return Seq(tuple(_runs(items, inlined, divided)))  # type: ignore[arg-type]  # likewise
    return node


def _runs(items: tuple[Node, ...], inlined: _Inlined, divided: set[Node]) -> Iterator[Shape]:
    """Neighbours that are regular go together."""
    run: list[Node] = []
    for item in items:
        regular = inlined(item)
        if regular is not None:
            run.append(regular[0])
            continue
        if run:
            yield _divide(_sequence(run), divided)
            run = []
        yield _shape(item, inlined, divided)
    if run:
        yield _divide(_sequence(run), divided)


def _sequence(items: list[Node]) -> Node:
    return items[0] if len(items) == 1 else Seq(tuple(items))


def _divide(node: Node, divided: set[Node]) -> Shape:
    """A regular expression as the largest lexemes that are not to be divided."""
    full = _nonempty(node)
    if full is not None and full not in divided:
        return Repeat(Lexeme(full), 0, 1) if _nullable(node) else Lexeme(full)  # type: ignore[arg-type]  # a shape
    match node:
        case Seq(items):
            return Seq(tuple(_divide(item, divided) for item in items))  # type: ignore[misc]  # likewise
        case Alt(items):
            return Alt(tuple(_divide(item, divided) for item in items))  # type: ignore[misc]  # likewise
        case Repeat(item, low, high):
            return Repeat(_divide(item, divided), low, high)  # type: ignore[arg-type]  # likewise
    return Lexeme(node)


def _nullable(node: Node) -> bool:
    match node:
        case Seq(items):
            return all(_nullable(item) for item in items)
        case Alt(items):
            return any(_nullable(item) for item in items)
        case Repeat(item, low, _):
            return low == 0 or _nullable(item)
    return False


def _nonempty(node: Node) -> Node | None:
    """What `node` matches but the empty text; None where that is nothing, or not easily said."""
    match node:
        case Seq(items):
            return None if all(_nullable(item) for item in items) else node
        case Alt(items):
            full = [_nonempty(item) for item in items if item != Seq(())]
            kept = tuple(item for item in full if item is not None)
            return None if not kept or len(kept) < len(full) else kept[0] if len(kept) == 1 else Alt(kept)
        case Repeat(item, low, high):
            inner = _nonempty(item)
            return None if inner is None or high == 0 else Repeat(inner, 1 if _nullable(item) else max(low, 1), high)
    return node


def _unsafe(shapes: Mapping[str, Shape], budget: Budget) -> set[Node]:
    """The lexemes that must be divided; all, once the budget is spent."""
    leaves = [*dict.fromkeys(leaf for shape in shapes.values() for leaf in _leaves(shape))]
    nodes = [leaf.node if isinstance(leaf, Lexeme) else None for leaf in leaves]
    divisible: set[Node] = {node for node in nodes if node is not None and not isinstance(node, Chars)}
    if not divisible:
        return divisible
    following = follows(shapes, leaves, budget)
    classes = Classes([node for node in nodes if node is not None])
    automata = [None if node is None else positions_of(node, classes) for node in nodes]
    first_chars = [-1 if one is None else one.first_chars for one in automata]
    together = _together(following, first_chars, budget)
    if budget.empty:
        return divisible
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
    return divisible if budget.empty else unsafe


def _together(following: Follows, first_chars: list[int], budget: Budget) -> list[int]:
    """For each leaf, those that can be expected at the same place, as bits; all, once the budget is spent.

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
            for j in bits_of(new):
                budget.left -= 1
                if first_chars[i] & first_chars[j]:
                    pair = following.behind[i], following.behind[j]
                    if pair not in seen:
                        seen.update((pair, pair[::-1]))
                        waiting += [pair, pair[::-1]]
            if budget.empty:
                return [(1 << len(found)) - 1] * len(found)
    return found


def _leaves(shape: Shape) -> Iterator[Lexeme | Tokens]:
    match shape:
        case Lexeme() | Tokens():
            yield shape
        case Seq(items) | Alt(items):
            for item in items:
                yield from _leaves(item)
        case Repeat(item, _, _):
            yield from _leaves(item)


def _refs(shape: Shape) -> Iterator[str]:
    match shape:
        case Ref(name):
            yield name
        case Seq(items) | Alt(items):
            for item in items:
                yield from _refs(item)
        case Repeat(item, _, _):
            yield from _refs(item)
