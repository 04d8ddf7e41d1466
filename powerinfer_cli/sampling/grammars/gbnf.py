"""llama.cpp's grammar format, GBNF, turned into llguidance's Lark.

What a grammar may hold is told by llama.cpp's grammars/README.md. Read here in full: rules and `root`, literals and
character classes with their escapes, any character (.), groups, repetition, tokens by id and by text and what is not
such a token, comments, and the rules of new lines.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

from powerinfer_cli.sampling.grammars.gbnf_lark import gbnf_lark
from powerinfer_cli.sampling.grammars.gbnf_syntax import Alt, Node, Ref, Repeat, Rules, Seq, Tokens, complement, literal
from powerinfer_cli.sampling.grammars.grammar_error import MOST_NAMES, GrammarError

__all__ = ["IdOf", "gbnf_to_lark", "parse_gbnf"]

IdOf: TypeAlias = Callable[[str], int | None]

_DEEPEST = 64  # parentheses in parentheses
_MOST_REPEATS = 2000  # llama.cpp's limit
_MOST_SIGNS = 8  # of repetition, one behind the other
_MOST_CHARACTERS = 200_000  # in literals and classes
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
_MOST_TOKENS = (1 << 31) - 1
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


def gbnf_to_lark(text: str, id_of: IdOf, no_text: Collection[int]) -> str:
    """The same grammar for llguidance. Raises GrammarError.

    id_of: the token that is written so. no_text: the tokens that are not meant by "any token but this one".
    """
    return gbnf_lark(parse_gbnf(text, id_of), no_text)


def parse_gbnf(text: str, id_of: IdOf) -> Rules:
    """Rules by name; `root` and every rule that another one names are among them."""
    parser = _Parser(text, id_of)
    try:
        rules = parser.rules()
    except GrammarError as error:
        line = text.count("\n", 0, parser.at) + 1
        raise GrammarError(f"bad grammar: line {line}: {error}") from None
    for name in parser.named:
        if name not in rules:
            raise GrammarError(f"bad grammar: undefined rule identifier {name[:80]!r}")
    if "root" not in rules:
        raise GrammarError("bad grammar: it has no rule named root")
    return rules


@dataclass
class _Parser:
    """Recursive descent; `at` is the next character."""

    text: str
    id_of: IdOf
    at: int = 0
    characters: int = 0  # read in literals and classes

    def __post_init__(self) -> None:
        self.named: dict[str, None] = {}  # rules that are referred to, in order

    def rules(self) -> Rules:
        """All rules; of one that is defined twice, the later."""
        rules: dict[str, Node] = {}
        self.space(True)
        while self.at < len(self.text):
            name = self.name()
            self.space(False)
            if not self.text.startswith("::=", self.at):
                raise GrammarError(f"expected ::= behind {name[:80]!r}{self.here()}")
            self.at += 3
            self.space(True)
            rules[name] = self.alternatives(0)
            if len(rules) > MOST_NAMES:
                raise GrammarError(f"more than {MOST_NAMES} rules")
            if self.peek() and self.peek() not in "\r\n":
                raise GrammarError(f"expected a new line{self.here()}")
            self.space(True)
        return rules

    def alternatives(self, depth: int) -> Node:
        if depth > _DEEPEST:
            raise GrammarError(f"parentheses are nested deeper than {_DEEPEST}")
        found = [self.sequence(depth)]
        while self.peek() == "|":
            self.at += 1
            self.space(True)
            found.append(self.sequence(depth))
        return found[0] if len(found) == 1 else Alt(tuple(found))

    def sequence(self, depth: int) -> Node:
        items: list[Node] = []
        while self.peek() and self.peek() not in "|)\r\n":
            item = self.item(depth)
            self.space(depth > 0)
            items.append(self.repeated(item, depth))
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def item(self, depth: int) -> Node:
        start = self.peek()
        if start == '"':
            self.at += 1
            return literal("".join(chr(c) for c in self.until('"')))
        if start == "[":
            return self.char_class()
        if start in "<!":
            return self.tokens()
        if start == ".":
            self.at += 1
            return complement(())
        if start != "(":
            name = self.name()
            self.named[name] = None
            return Ref(name)
        self.at += 1
        self.space(True)
        group = self.alternatives(depth + 1)
        if self.peek() != ")":
            raise GrammarError(f"expected ){self.here()}")
        self.at += 1
        return group

    def repeated(self, item: Node, depth: int) -> Node:
        """`item` with the repetitions behind it; there may be several."""
        signs = 0
        while (sign := self.peek()) and sign in "*+?{":
            self.at += 1
            signs += 1
            if signs > _MOST_SIGNS:
                raise GrammarError(f"more than {_MOST_SIGNS} repetitions of each other")
            if sign == "{":
                low, high = self.bounds()
            else:
                low, high = int(sign == "+"), 1 if sign == "?" else None
            if low > _MOST_REPEATS:
                raise GrammarError(f"more than {_MOST_REPEATS} repetitions")
            if high is not None and high > _MOST_REPEATS:
                high = None  # as llama.cpp takes it
            item = Repeat(item, low, high) if high != 0 else Seq(())
            self.space(depth > 0)
        return item

    def bounds(self) -> tuple[int, int | None]:
        """{m} {m,} {m,n}, behind the brace."""
        self.space(False)
        low = self.number()
        self.space(False)
        high: int | None = low
        if self.peek() == ",":
            self.at += 1
            self.space(False)
            high = self.number() if self.peek().isdigit() else None
            self.space(False)
        if self.peek() != "}":
            raise GrammarError(f"expected }}{self.here()}")
        self.at += 1
        if high is not None and high < low:
            raise GrammarError(f"repetition {{{low},{high}}} has its bounds in the wrong order")
        return low, high

    def char_class(self) -> Node:
        self.at += 1
        negated = self.peek() == "^"
        self.at += negated
        ranges: list[tuple[int, int]] = []
        while self.peek() != "]":
            low = high = self.character()
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                high = self.character()
                if high < low:
                    raise GrammarError(f"range {chr(low)!r}-{chr(high)!r} has its ends in the wrong order")
            ranges.append((low, high))
        self.at += 1
        if not ranges:
            return Seq(())  # as llama.cpp reads [] and [^]
        others = complement(ranges)
        return others if negated else complement(others.ranges)

    def tokens(self) -> Tokens:
        """<[id]>, <text>, and ! before one of them."""
        negated = self.peek() == "!"
        self.at += negated
        end = self.text.find(">", self.at)
        if self.peek() != "<" or end < 0:
            raise GrammarError(f"expected a token in < >{self.here()}")
        name = self.text[self.at : end + 1]
        if name.startswith("<[") and name.endswith("]>") and name[2:-2].isascii() and name[2:-2].isdigit():
            token = min(int(name[2:-2][:12]), _MOST_TOKENS)
        else:
            found = self.id_of(name)
            if found is None:
                raise GrammarError(f"{name[:80]!r} is not one token of the model's vocabulary")
            token = found
        self.at = end + 1
        return Tokens(token, negated)

    def until(self, end: str) -> list[int]:
        characters = []
        while self.peek() != end:
            characters.append(self.character())
        self.at += 1
        return characters

    def character(self) -> int:
        """One character or escape."""
        character = self.peek()
        if not character:
            raise GrammarError("the grammar ends within a literal or a class")
        self.at += 1
        self.characters += 1
        if self.characters > _MOST_CHARACTERS:
            raise GrammarError(f"more than {_MOST_CHARACTERS} characters in literals and classes")
        if character != "\\":
            return ord(character)
        letter = self.peek()
        self.at += 1
        if letter in _HEX_DIGITS:
            return self.code_point(letter)
        if letter not in _ESCAPES:
            raise GrammarError(f"unknown escape \\{letter}")
        return ord(_ESCAPES[letter])

    def code_point(self, letter: str) -> int:
        digits = self.text[self.at : self.at + _HEX_DIGITS[letter]]
        self.at += len(digits)
        if len(digits) < _HEX_DIGITS[letter] or not all(d in "0123456789abcdefABCDEF" for d in digits):
            raise GrammarError(f"\\{letter} needs {_HEX_DIGITS[letter]} hexadecimal digits")
        if int(digits, 16) > 0x10FFFF:
            raise GrammarError(f"\\{letter}{digits} is no Unicode character")
        return int(digits, 16)

    def number(self) -> int:
        start = self.at
        while self.peek() and self.peek() in "0123456789":
            self.at += 1
        if start == self.at:
            raise GrammarError(f"expected a number{self.here()}")
        return int(self.text[start : self.at][:12])

    def name(self) -> str:
        start = self.at
        while (c := self.peek()) and (c.isascii() and (c.isalnum() or c in "-_")):
            self.at += 1
        if start == self.at:
            raise GrammarError(f"expected a name{self.here()}")
        return self.text[start : self.at]

    def space(self, lines: bool) -> None:
        """Past blanks and comments, and past the ends of lines if `lines`."""
        blank = " \t\r\n" if lines else " \t"
        while (c := self.peek()) and (c in blank or c == "#"):
            if c == "#":
                while self.peek() and self.peek() not in "\r\n":
                    self.at += 1
            else:
                self.at += 1

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def here(self) -> str:
        rest = self.text[self.at : self.at + 20]
        return f", found {rest!r}" if rest else ", found the end"
