"""A GBNF grammar written as Lark."""

from __future__ import annotations

from collections.abc import Collection

from powerinfer_cli.sampling.gbnf_syntax import Alt, Chars, Node, Ref, Repeat, Rules, Seq, Tokens

__all__ = ["Lark"]


class Lark:
    """str() of it is the grammar."""

    def __init__(self, rules: Rules, no_text: Collection[int]) -> None:
        """no_text: the tokens that are not meant by "any token but this one"."""
        self._no_text = frozenset(no_text)
        self._names = {name: f"r{i}" for i, name in enumerate(rules)} | {"root": "start"}
        self._lines = [f"{self._names[name]}: {self._write(node)}" for name, node in rules.items()]

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"

    def _write(self, node: Node) -> str:
        match node:
            case Chars(ranges):
                return f"/{regex_of(ranges)}/"
            case Tokens(token, negated):
                return f"<[^{id_ranges(self._no_text | {token})}]>" if negated else f"<[{token}]>"
            case Ref(name):
                return self._names[name]
            case Seq(items):
                return " ".join(self._inner(item) for item in items) or '""'
            case Alt(items):
                return " | ".join(self._write(item) for item in items)
            case Repeat(item, low, high):
                return f"({self._write(item)}){{{low},{'' if high is None else high}}}"

    def _inner(self, node: Node) -> str:
        return f"({self._write(node)})" if isinstance(node, Alt | Seq) else self._write(node)


def regex_of(ranges: tuple[tuple[int, int], ...]) -> str:
    """A character class; of no ranges, one that nothing matches."""
    if not ranges:
        return r"[^\x{0}-\x{10FFFF}]"
    return "[" + "".join(f"\\x{{{low:X}}}-\\x{{{high:X}}}" for low, high in ranges) + "]"


def id_ranges(ids: Collection[int]) -> str:
    """1,3-5"""
    ordered = sorted(ids)
    starts = [i for i in ordered if i - 1 not in ids]
    ends = [i for i in ordered if i + 1 not in ids]
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in zip(starts, ends, strict=True))
