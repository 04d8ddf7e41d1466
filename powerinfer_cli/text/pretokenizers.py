"""llama.cpp's pre-tokenizers: how a text is cut into words before byte-level BPE merges inside each word.

A pre-tokenizer is a row of stages; each cuts every word of the stage before it further, and sees nothing beyond that
word. A stage is a pattern (what lies between two matches is a word too) or a function. Patterns that name Unicode
categories run on the collapsed text (see `characters.collapse`), where a category is one character besides its ASCII
members; so categories are llama.cpp's own, and all letters are alike: \\p{Lu} means \\p{L}.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain, pairwise

from .characters import CLASS_CHARACTER, collapse, plain_spaces
from .pretokenizer_names import FAMILIES, PRETOKENIZERS, Family

__all__ = ["PreTokenizer", "known_pretokenizers", "pretokenizer"]

Cut = Callable[[str], list[str]]

_MEMBERS = {
    "N": CLASS_CHARACTER["N"] + "0-9",
    "L": CLASS_CHARACTER["L"] + CLASS_CHARACTER["H"] + "A-Za-z",
    "P": CLASS_CHARACTER["P"] + r"!-#%-*,-/:;?@\[-\]_{}",
    "M": CLASS_CHARACTER["M"],
    "S": CLASS_CHARACTER["S"] + r"$+<->\^`|~",
    "Han": CLASS_CHARACTER["H"] + CLASS_CHARACTER["h"],
    "NotHan": CLASS_CHARACTER["L"] + "A-Za-z",
}
"""What a category, or a set of characters of ours, is in a collapsed text. NotHan: the other letters."""
_SPACES = " \t\n\v\f\r"
_DIGITS = re.compile(f"[0-9{CLASS_CHARACTER['N']}]+")
_ASCII_DIGITS = re.compile("[0-9]+")


@dataclass(frozen=True)
class _Stage:
    cut: Cut
    collapsed: bool  # sees the collapsed text; otherwise the text itself with plain spaces


@dataclass(frozen=True)
class PreTokenizer:
    """The stages and the settings that llama.cpp ties to a pre-tokenizer's name."""

    stages: tuple[_Stage, ...]
    add_bos: bool
    forced_bos: bool  # add_bos whatever the metadata says
    default_bos: bool  # without metadata the BOS is token 11
    ignore_merges: bool  # a word that is a token is that token
    clean_spaces: bool  # decoding drops spaces before punctuation
    byte_level: bool  # words go through GPT-2's byte table
    spaces_escaped: bool  # spaces become ▁ first
    whole_newlines: bool  # ignore_merges, for words of newlines
    merges_needed: bool  # a file without tokenizer.ggml.merges is broken

    def split(self, text: str) -> list[str]:
        """The words; joined they are `text`."""
        if text.isascii():
            words = [text]
            for stage in self.stages:
                words = list(chain.from_iterable(map(stage.cut, words)))
            return words
        views = {True: collapse(text), False: plain_spaces(text)}
        lengths = [len(text)]
        for stage in self.stages:
            parts = chain.from_iterable(map(stage.cut, _slices(views[stage.collapsed], lengths)))
            lengths = list(map(len, parts))
        return _slices(text, lengths)


def _slices(text: str, lengths: list[int]) -> list[str]:
    return [text[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]


def known_pretokenizers() -> list[str]:
    """The names that `pretokenizer` takes."""
    return sorted(PRETOKENIZERS)


@cache
def pretokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer that `tokenizer.ggml.pre` calls `name`. KeyError when it is not known."""
    family_name, settings = PRETOKENIZERS[name]
    return PreTokenizer(
        stages=_stages(FAMILIES[family_name]),
        add_bos="bos" in settings,
        forced_bos="forced_bos" in settings,
        default_bos="no_default_bos" not in settings,
        ignore_merges="ignore_merges" in settings,
        clean_spaces="keep_spaces" not in settings,
        byte_level="raw" not in settings,
        spaces_escaped="raw" in settings,
        whole_newlines="whole_newlines" in settings,
        merges_needed="no_merges" not in settings,
    )


def _stages(family: Family) -> tuple[_Stage, ...]:
    functions = {
        "<thousands>": _Stage(_cut_thousands, collapsed=True),
        "<ascii thousands>": _Stage(_cut_ascii_thousands, collapsed=False),
        "<trailing spaces>": _Stage(_cut_trailing_spaces, collapsed=False),
    }
    return tuple(functions.get(step) or _pattern_stage(step) for step in family)


def _pattern_stage(pattern: str) -> _Stage:
    expanded = _expand_categories(pattern)
    split = re.compile(f"({expanded})", re.ASCII).split
    return _Stage(lambda word: list(filter(None, split(word))), collapsed=expanded != pattern)


def _expand_categories(pattern: str) -> str:
    r"""\p{X} as the characters that stand for it in a collapsed text, in brackets where it is not within some."""
    parts = re.split(r"(\\p\{\w+\}|\\.|\[|\])", pattern)
    inside = False
    for i, part in enumerate(parts):
        if part == "[":
            inside = True
        elif part == "]":
            inside = False
        elif part.startswith(r"\p{"):
            members = _MEMBERS[part[3:-1]]
            parts[i] = members if inside else f"[{members}]"
    return "".join(parts)


def _cut_thousands(word: str) -> list[str]:
    """Digits in threes counted from the right; what stands before a run of digits sticks to its first group."""
    cuts: list[int] = []
    for run in _DIGITS.finditer(word):
        first = (run.end() - run.start()) % 3 or 3
        cuts.extend(range(run.start() + first, run.end() + 1, 3))
    return _cut_at(word, cuts)


def _cut_ascii_thousands(word: str) -> list[str]:
    """Cuts wherever the ASCII digits that follow come in whole threes, also before the first digit."""
    cuts: list[int] = []
    for run in _ASCII_DIGITS.finditer(word):
        cuts.extend(range(run.start() + (run.end() - run.start()) % 3, run.end(), 3))
    return _cut_at(word, cuts)


def _cut_trailing_spaces(word: str) -> list[str]:
    body = word.rstrip(_SPACES)
    return [part for part in (body, word[len(body) :]) if part]


def _cut_at(word: str, cuts: list[int]) -> list[str]:
    return [word[start:end] for start, end in pairwise([0, *cuts, len(word)]) if start < end]
