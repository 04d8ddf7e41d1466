"""What a GBNF grammar consists of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Alt", "Chars", "Node", "Ref", "Repeat", "Rules", "Seq", "Tokens", "complement", "literal"]

# No match_args: before Python 3.12 `case Seq(items)` makes the text "__match_args__" anew each time, and a cache of the
# interpreter keeps thousands of them, each of which holds a megabyte that a large grammar needed once.
_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)  # no text holds these


def _hash_once(node: Seq | Alt | Repeat) -> int:
    """A whole grammar may hang below a node, and sets are asked for it again and again."""
    known = vars(node).get("_hash")
    if known is None:
        known = hash((type(node), *vars(node).values()))
        object.__setattr__(node, "_hash", known)
    return int(known)


@dataclass(frozen=True, match_args=False)
class Chars:
    """One character out of these ranges, which ascend, do not touch, and hold no surrogates."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, match_args=False)
class Tokens:
    """This one token, or any other."""

    token: int
    negated: bool


@dataclass(frozen=True, match_args=False)
class Ref:
    """A rule by its name."""

    name: str


@dataclass(frozen=True, match_args=False)
class Seq:
    """One after another; of none, the empty text."""

    items: tuple[Node, ...]
    __hash__ = _hash_once


@dataclass(frozen=True, match_args=False)
class Alt:
    items: tuple[Node, ...]
    __hash__ = _hash_once


@dataclass(frozen=True, match_args=False)
class Repeat:
    """`low` to `high` times; high None for no limit."""

    item: Node
    low: int
    high: int | None
    __hash__ = _hash_once


Node: TypeAlias = Chars | Tokens | Ref | Seq | Alt | Repeat
Rules: TypeAlias = Mapping[str, Node]


def literal(text: str) -> Node:
    items = tuple(_character(ord(c)) for c in text)
    return items[0] if len(items) == 1 else Seq(items)


def _character(code: int) -> Chars:
    low, high = _SURROGATES
    return Chars(() if low <= code <= high else ((code, code),))


def complement(ranges: Iterable[tuple[int, int]]) -> Chars:
    """Every character that is not in `ranges`, which come in any order; done twice, it puts them in order."""
    free, result = 0, []
    for low, high in sorted([*ranges, _SURROGATES]):
        if low > free:
            result.append((free, low - 1))
        free = max(free, high + 1)
    if free <= _LAST:
        result.append((free, _LAST))
    return Chars(tuple(result))
