"""A GBNF grammar written as Lark, with as much of it in lexemes as greedy matching allows."""

from __future__ import annotations

from collections.abc import Collection

from powerinfer_cli.sampling.grammars.gbnf_lexemes import Lexeme, Shape, lexemes_of
from powerinfer_cli.sampling.grammars.gbnf_syntax import Alt, Chars, Node, Ref, Repeat, Rules, Seq, Tokens
from powerinfer_cli.sampling.grammars.grammar_error import MOST_NAMES, GrammarError

__all__ = ["gbnf_lark"]

_MOST_PARTS = 32_000  # of a grammar's alternatives and groups, for which llguidance takes 100 MB and half a second


def gbnf_lark(rules: Rules, no_text: Collection[int]) -> str:
    """`rules` for llguidance. no_text: the tokens that are not meant by "any token but this one".

    Raises GrammarError for one that is too large.
    """
    return str(_Lark(lexemes_of(rules), no_text))


class _Lark:
    """str() of it is the grammar."""

    def __init__(self, rules: dict[str, Shape], no_text: Collection[int]) -> None:
        self._no_text = frozenset(no_text)
        self._names = {name: f"r{i}" for i, name in enumerate(rules)} | {"root": "start"}
        self._terminals: dict[Node, str] = {}
        self._parts = 0
        self._lines = [f"{self._names[name]}: {self._write(shape)}" for name, shape in rules.items()]

    def __str__(self) -> str:
        terminals = [f"{name}: /{_regex(node)}/" for node, name in self._terminals.items()]
        return "\n".join([*self._lines, *terminals]) + "\n"

    def _write(self, shape: Shape) -> str:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise GrammarError(
                f"bad grammar: too many alternatives and groups: with their parts they are more than {_MOST_PARTS}"
            )
        match shape:
            case Lexeme(node=node):
                name = self._terminals.setdefault(node, f"T{len(self._terminals)}")
                if len(self._terminals) > MOST_NAMES:
                    raise GrammarError(f"bad grammar: more than {MOST_NAMES} different classes and words")
                return name
            case Tokens(token=token, negated=negated):
                return f"<[^{_id_ranges(self._no_text | {token})}]>" if negated else f"<[{token}]>"
            case Ref(name=name):
                return self._names[name]
            case Seq(items=items):
                return " ".join(f"({self._write(item)})" for item in items) or '""'
            case Alt(items=items):
                return " | ".join(self._write(item) for item in items)
            case Repeat(item=item, low=low, high=high):
                return f"({self._write(item)}){_bounds(low, high)}"
            case _:
                raise TypeError(shape)


def _regex(node: Node) -> str:
    match node:
        case Chars(ranges=ranges):
            return _char_class(ranges)
        case Seq(items=items):
            return "".join(_regex(item) for item in items)
        case Alt(items=items):
            return f"(?:{'|'.join(_regex(item) for item in items)})"
        case Repeat(item=item, low=low, high=high):
            return f"(?:{_regex(item)}){_bounds(low, high)}"
        case _:
            raise TypeError(node)


def _bounds(low: int, high: int | None) -> str:
    short = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    return short.get((low, high)) or f"{{{low},{'' if high is None else high}}}"


def _char_class(ranges: tuple[tuple[int, int], ...]) -> str:
    """Of no ranges: one that nothing matches."""
    if not ranges:
        return r"[^\x{0}-\x{10FFFF}]"
    return "[" + "".join(f"\\x{{{low:X}}}-\\x{{{high:X}}}" for low, high in ranges) + "]"


def _id_ranges(ids: Collection[int]) -> str:
    """1,3-5"""
    ordered = sorted(ids)
    starts = [i for i in ordered if i - 1 not in ids]
    ends = [i for i in ordered if i + 1 not in ids]
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in zip(starts, ends, strict=True))
