"""Hostile grammars and schemas: an error or a bounded cost; never a crash, nor a request that stops the others."""

import gc
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.sampling.forms import grammars_of
from powerinfer_cli.sampling.grammars.gbnf import gbnf_to_lark
from powerinfer_cli.sampling.grammars.grammar import GrammarError, Grammars, NotKeptError, only_kept
from tests.sampling.constrained_texts import bundled, byte_grammars, written

PATIENCE = 10  # seconds of this process, for what takes one or two


def _chain(n: int, link: str, last: str) -> str:
    return "root ::= a0\n" + "\n".join(f"a{i} ::= {link.format(i + 1)}" for i in range(n)) + f"\na{n} ::= {last}\n"


def _refs(n: int, link: Callable[[str], Any]) -> dict[str, Any]:
    names = {f"a{i}": link(f"#/$defs/a{i + 1}") for i in range(n)}
    return {"$ref": "#/$defs/a0", "$defs": {**names, f"a{n}": {"type": "null"}}}


def _nested(n: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(n):
        schema = {"type": "array", "items": schema}
    return schema


def _spelled(name: str, n: int) -> str:
    """Percent signs for the letters whose bits are set in n."""
    return "".join(f"%{ord(letter):02x}" if n >> i & 1 else letter for i, letter in enumerate(name))


GRAMMARS = {
    "a doubling of rules": _chain(60, "a{0} a{0}", '"x"'),
    "a doubling of what may be empty": _chain(40, "a{0} a{0}", '"x"?'),
    "a chain": _chain(3900, "a{0}", '"x"'),
    "too long a chain": _chain(20_000, "a{0}", '"x"'),
    "ambiguous": 'root ::= root root | root root root | "a" | [a-z ]+',
    "hidden left recursion": 'root ::= x root "b" | "a"\nx ::= "c"*',
    "empty repeated": 'root ::= (""*)* "a"',
    "repeats of repeats": 'root ::= (("a"{2000}){2000}){2000}',
    "signs": 'root ::= "a"' + "{2000}" * 500,
    "parentheses": "root ::= " + "(" * 10_000 + '"a"' + ")" * 10_000,
    "far back": 'root ::= [ab]* "a" [ab]{60} "c"',
    "many words": "root ::= " + " | ".join(f'"w{i}"' for i in range(10_000)),
    "a long literal": 'root ::= "' + "a" * 300_000 + '"',
    "a long text": "#" * (1 << 20) + '\nroot ::= "a"',
    "many classes": "root ::= (" + " | ".join(f"[{chr(i)}{chr(i + 1)}a]" for i in range(0x4E00, 0x9C00)) + ")*",
    "many sequences": "root ::= (" + " | ".join(f"[{chr(i)}a] [{chr(i + 1)}b]" for i in range(0x4E00, 0x9C00)) + ")*",
    "many that may be empty": "root ::= " + " ".join(f"[a-z{chr(i)}]?" for i in range(0x4E00, 0x9C00)),
    "many words again and again": "root ::= (" + " | ".join(f'"w{i}"' for i in range(20_000)) + ")*",
    "many in many rules": "root ::= " + " | ".join(f'"{i}" r' for i in range(4000)) + "\nr ::= " + '"a"? ' * 400,
    "deep names": "".join(f"a{i} ::= {'(' * 60}{chr(34)}a{chr(34)} a{i + 1}{')?{2}' * 60}\n" for i in range(99))
    + 'a99 ::= "b"\nroot ::= a0',
    "many long steps": "root ::= " + "[a-z]{0,2000} " * 1000,
    "rules at random": "root ::= ("
    + " | ".join(f"r{i}" for i in range(1000))
    + ")*\n"
    + "\n".join(f'r{i} ::= "a" r{i * 7 % 1000} | "a"' for i in range(1000)),
}
SCHEMAS = {
    "many items": {"type": "array", "minItems": 10**12},
    "many of many": {"type": "array", "items": {"type": "array", "minItems": 10**6}, "minItems": 10**6},
    "long strings": {"type": "string", "minLength": 10**9, "maxLength": 2 * 10**9},
    "evil pattern": {"type": "string", "pattern": "^(a+)+(b|a)*(a?){200}a{200}c$"},
    "far back": {"type": "string", "pattern": "^.*a.{100}$"},
    "counts of counts": {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
    "deep pattern": {"type": "string", "pattern": "(" * 5000 + ")" * 5000},
    "a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "a circle of allOf": {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}},
    "a chain": _refs(1000, lambda ref: {"type": "object", "properties": {"x": {"$ref": ref}}, "required": ["x"]}),
    "too long a chain": _refs(3000, lambda ref: {"anyOf": [{"$ref": ref}, {"type": "null"}]}),
    "a doubling of anyOf": _refs(40, lambda ref: {"anyOf": [{"$ref": ref}, {"type": "array", "items": {"$ref": ref}}]}),
    "a doubling of allOf": _refs(30, lambda ref: {"allOf": [{"$ref": ref}, {"$ref": ref}]}),
    "products": {
        "allOf": [
            {"anyOf": [{"properties": {f"a{i}": {"type": "null"}}}, {"properties": {f"b{i}": {"type": "null"}}}]}
            for i in range(20)
        ]
    },
    "many ways to one place": {
        "$defs": {"defs": {f"b{i}": {"enum": [i]} for i in range(5000)}},
        "anyOf": [{"$ref": f"#/$defs/{_spelled('defs', n)}/b{i}"} for n in range(16) for i in range(60)],
    },
    "deep": _nested(40),
    "too deep": _nested(5000),
    "many properties": {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(1000)}},
    "many values": {"enum": [f"v{i}" for i in range(20_000)]},
    "a long text": {"const": "a" * (1 << 21)},
}
CASES: dict[str, Callable[[Grammars], Any]] = {
    **{f"grammar: {name}": lambda grammars, text=text: grammars.gbnf(text) for name, text in GRAMMARS.items()},
    **{
        f"schema: {name}": lambda grammars, schema=schema: grammars.json_schema(schema)
        for name, schema in SCHEMAS.items()
    },
    "Lark: deep names": lambda grammars: grammars.lark(
        "start: A0\n" + "\n".join(f'A{i}: A{i + 1} "y"' for i in range(20_000)) + '\nA20000: "x"'
    ),
    "Lark: parentheses": lambda grammars: grammars.lark("start: " + "(" * 50_000 + '"a"' + ")" * 50_000),
}


@pytest.mark.parametrize("name", CASES)
def test_the_cost_is_bounded(name: str) -> None:
    tokenizer, start = bundled(), time.process_time()
    message = ""
    try:
        new = CASES[name](grammars_of(tokenizer))
        written(tokenizer, new, SamplerOptions(seed=1, temp=2.0), limit=10)
    except GrammarError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 500
    assert time.process_time() - start < PATIENCE


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("grammar: too long a chain", "line 4001: more than 4000 rules"),
        ("grammar: signs", "line 1: more than 8 repetitions of each other"),
        ("grammar: parentheses", "line 1: parentheses are nested deeper than 64"),
        ("grammar: a long literal", "line 1: more than 200000 characters in literals and classes"),
        ("grammar: many classes", "more than 4000 different classes and words"),
        ("grammar: many words again and again", "with their parts they are more than 32000"),
        ("grammar: many long steps", "Too many items (limit 30000"),
        ("grammar: a long text", "the grammar is too long: 1048589 characters, 1048576 are the limit"),
        ("schema: a circle", "no text of this vocabulary matches it"),
        ("schema: too long a chain", "too deep with what it refers to"),
        ("schema: too deep", "nested deeper than 100"),
        ("schema: a long text", "the JSON schema is too long"),
        ("Lark: deep names", "more than 4000 names"),
    ],
)
def test_what_is_too_much_is_said(name: str, words: str) -> None:
    with pytest.raises(GrammarError) as caught:
        CASES[name](byte_grammars())
    assert words in str(caught.value)


def test_too_many_alternatives_are_told_in_plain_words() -> None:
    words = " | ".join(["<[65]> <[66]>"] * 34_000)
    with pytest.raises(GrammarError, match=r"bad grammar: too many alternatives .* more than 32000") as caught:
        byte_grammars().gbnf(f"root ::= {words}")
    assert "panic" not in str(caught.value)


def test_what_was_refused_is_not_compiled_again() -> None:
    grammars = grammars_of(bundled())
    schema = {"properties": {"a": {"pattern": "(?!a)b"}}}
    for ask in (lambda: grammars.gbnf(GRAMMARS["many long steps"]), lambda: grammars.json_schema(schema)):
        with pytest.raises(GrammarError) as first:
            ask()
        only_kept.set(True)
        try:
            with pytest.raises(GrammarError) as second:
                ask()
        finally:
            only_kept.set(False)
        assert str(first.value) == str(second.value)


def test_what_is_not_known_is_not_compiled_where_that_is_not_wanted() -> None:
    grammars = grammars_of(bundled())
    only_kept.set(True)
    try:
        with pytest.raises(NotKeptError):
            grammars.gbnf('root ::= "a"')
        with pytest.raises(NotKeptError):
            grammars.mended_schema({"type": "object"}, "here")
    finally:
        only_kept.set(False)


def test_nothing_stays_of_what_a_grammar_was_written_with() -> None:
    """Python keeps its memory by the megabyte: a few hundred small things here and there, and none goes back."""
    text = "root ::= (" + " | ".join(f'"{i}" r' for i in range(200)) + ")*\nr ::= " + '"a"? ' * 40
    for _ in range(2):  # the first fills caches that are there once
        gc.collect()
        before = sys.getallocatedblocks()
        gbnf_to_lark(text, lambda name: None, ())
        gc.collect()
        left = sys.getallocatedblocks() - before
    assert left < 40  # 165 and more with positional class patterns on Python 3.11


def test_an_error_holds_nothing_of_what_was_at_work() -> None:
    """Its context would: the other error, and with that all frames, until somebody is told."""
    grammars = byte_grammars()
    for compiled in (
        lambda: grammars.gbnf('root ::= "a" nobody'),
        lambda: grammars.json_schema({"type": "string", "pattern": "(?!a)b"}),
    ):
        with pytest.raises(GrammarError) as error:
            compiled()
        assert error.value.__context__ is None


def test_few_grammars_are_kept_where_memory_is_wanted() -> None:
    grammars = byte_grammars()
    compiled = [grammars.gbnf(f'root ::= "a{i}"') for i in range(40)]
    grammars.keep_few()
    assert grammars.gbnf('root ::= "a39"') == compiled[39]
    assert grammars.gbnf('root ::= "a0"') != compiled[0]
