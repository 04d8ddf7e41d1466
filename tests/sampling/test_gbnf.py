"""GBNF, as llama.cpp's guide to it tells: what each notation allows, and what is no grammar."""

import itertools
import random
import re

import pytest

from powerinfer_cli.sampling.grammars.gbnf import gbnf_to_lark, parse_gbnf
from powerinfer_cli.sampling.grammars.grammar import GrammarError
from tests.sampling.constrained_texts import END, byte_grammars, fits
from tests.sampling.gbnf_oracle import matches

TOOL = 258

# grammar, texts that fit, texts that do not
NOTATIONS: list[tuple[str, list[str], list[str]]] = [
    ('root ::= "ab"', ["ab"], ["", "a", "abc", "b"]),
    ('root ::= "a" | "b" "c" |', ["a", "bc", ""], ["b", "ac"]),
    ('root ::= ("a" | "b")\n', ["a", "b"], ["ab"]),
    ('root ::= "a"? "b"* "c"+', ["c", "abbcc"], ["", "ab", "aac"]),
    ('root ::= "a"{2} [0-9]{1,3} "b"{2,} "c"{0,1}', ["aa1bb", "aa123bbbbc"], ["a1bb", "aa1234bb", "aa1b", "aabb"]),
    ('root ::= ("a" "b"{2})* "c"', ["c", "abbabbc"], ["abc", "abb"]),
    ("root ::= [a-cx]+", ["abcx"], ["d", "-"]),
    ("root ::= [a-]+", ["a-"], ["b"]),
    ("root ::= [^a-c\\n]", ["d", "-", "é", "😀"], ["a", "\n", ""]),
    ('root ::= [\\]\\[\\\\"]+', ['][\\"'], ["a"]),
    ('root ::= "\\x41\\u00e9\\U0001F600\\n\\t\\r\\\\\\"\\[\\]"', ['Aé😀\n\t\r\\"[]'], ["A"]),
    ("root ::= [\\u00e0-\\u00ff]", ["é"], ["e", "Ā"]),
    ("root ::= [ぁ-ゟ]+", ["ひらがな"], ["カ"]),
    ("root ::= .+", ["a\né😀"], [""]),
    ('root ::= "a" # one\n\n# two\nb ::= "b"', ["a"], ["b"]),
    ('root ::= a-b a_c\na-b ::= "b"\r\na_c ::= "c"', ["bc"], ["b"]),
    ('root ::= "a" |\n  "b"', ["a", "b"], ["ab"]),
    ('root ::= ( # here\n "a"\n | "b"\n)\n', ["a"], ["ab"]),
    ('root ::=\n "a"', ["a"], [""]),
    ('root ::= "a"\nroot ::= "b"', ["b"], ["a"]),
    ('root ::= "(" root ")" | "x"', ["x", "((x))"], ["((x)", "()"]),
    ('root ::= root "+" root | [0-9]', ["1", "1+2+3"], ["1+", "+"]),  # left recursion
    ('root ::= [a-z]* "x"', ["x", "xx", "abx"], ["", "ab"]),  # the end of what is greedy is not where it could go on
    ('root ::= ([a-z]+ | "if" " "+ [a-z]+) ";"', ["if;", "if a;", "ifs;"], ["if ;"]),
    ('root ::= word ("," word)* "\\n"\nword ::= [a-z]+ ws\nws ::= [ \\n]*', ["a\n", "a \n,b\n\n"], ["a", ",\n"]),
    ('root ::= "/*" ( [^*] | "*" [^/] )* "*/"', ["/**/", "/*a*b*/"], ["/*", "/*/"]),
    ("root ::=", [""], ["a"]),
    ("root ::= [a\\-c]+", ["a-c"], ["b"]),
    ("root ::= [^\\-]", ["a", "\\"], ["-"]),
    ("root ::= [+\\--9]+", ["+-./09"], [",", ":"]),
    ('root ::= "\\-"', ["-"], ["\\-"]),
    ('root ::= "a" [] [^]', ["a"], ["", "ab"]),
    ('root ::= "a"{0}', [""], ["a"]),
    ('root ::= "b" ("a" x){0,0} "c"{0}\nx ::= x "y" | "z"', ["b"], ["ba", "bc"]),
    ('root ::= "a"{1,4000}', ["a", "aaa"], [""]),  # a limit above the most is none
]


@pytest.mark.parametrize(("grammar", "good", "bad"), NOTATIONS, ids=[grammar for grammar, _, _ in NOTATIONS])
def test_notation(grammar: str, good: list[str], bad: list[str]) -> None:
    new = byte_grammars().gbnf(grammar)
    assert [text for text in good if not fits(new, text)] == []
    assert [text for text in bad if fits(new, text)] == []


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("root ::= this is (not valid", "line 1: expected ), found the end"),
        ('root ::= "a', "line 1: the grammar ends within"),
        ("root ::= [a", "line 1: the grammar ends within"),
        ('root ::= "\\q"', r"line 1: unknown escape \q"),
        ('root ::= "\\x1"', r"line 1: \x needs 2 hexadecimal digits"),
        ("root ::= [\\U00110000]", r"line 1: \U00110000 is no Unicode character"),
        ("root ::= [b-a]", "line 1: range 'b'-'a'"),
        ('x ::= "a"\nroot = x', "line 2: expected ::= behind 'root'"),
        ('root ::= "a" ) "b"', "line 1: expected a new line, found ') \"b\"'"),
        ('root ::= "a"\n  | "b"', "line 2: expected a name"),
        ("root ::= * 'a'", "line 1: expected a name, found \"* 'a'\""),
        ('root ::= "a"{,3}', "line 1: expected a number"),
        ('root ::= "a"{3', "line 1: expected }"),
        ('root ::= "a"{3,2}', "line 1: repetition {3,2}"),
        ('root ::= "a"{2001}', "line 1: more than 2000 repetitions"),
        ("root ::= missing-one", "undefined rule identifier 'missing-one'"),
        ('other ::= "a"', "it has no rule named root"),
        ("", "it has no rule named root"),
        ("root ::= <nothing>", "line 1: '<nothing>' is not one token of the model's vocabulary"),
        ("root ::= <[999]>", "the vocabulary has no token 999"),
        ("root ::= !<[99999999999]>", "the vocabulary has no token 2147483647"),
        ('root ::= "\\U0000d800"', "no text of this vocabulary matches"),
        ("root ::= <open", "line 1: expected a token in < >"),
        ("root ::= root", "no text of this vocabulary matches"),
        ("root ::= [^\\x00-\\U0010FFFF]", "no text of this vocabulary matches"),
    ],
)
def test_what_is_no_grammar_is_said_in_one_line(grammar: str, words: str) -> None:
    with pytest.raises(GrammarError) as caught:
        byte_grammars().gbnf(grammar)
    assert words in str(caught.value)
    assert str(caught.value).startswith("bad grammar: ")
    assert "\n" not in str(caught.value)
    assert not re.search(r"\d\(\d+\)", str(caught.value))  # a place in what llguidance is given


def test_tokens_by_name_and_by_id() -> None:
    for tool in ("<tool>", f"<[{TOOL}]>"):
        new = byte_grammars().gbnf(f'root ::= {tool} "a"')
        assert fits(new, [TOOL, ord("a")])
        assert not fits(new, "<tool>a")  # that is text
        assert not fits(new, "a")


def test_any_token_but_one_is_any_text_but_that() -> None:
    new = byte_grammars().gbnf("root ::= <tool> !<[97]>* <tool>")
    assert fits(new, [TOOL, *"bcd\n<tool>é".encode(), TOOL])
    assert fits(new, [TOOL, TOOL])
    assert not fits(new, [TOOL, ord("a"), TOOL])
    assert not fits(new, [TOOL, TOOL, TOOL])  # control tokens come only by name
    state = new()
    state.accept(TOOL)
    assert not state.allows(END)
    assert not state.allowed()[END]


def test_random_grammars_mean_what_they_say() -> None:
    """Lexemes are greedy, grammars are not: the parts that are made lexemes must not change a grammar."""
    texts = ["".join(text) for n in range(5) for text in itertools.product("ab", repeat=n)]
    compared = 0
    for seed in range(40):
        chooser = random.Random(seed)
        grammar = _random_grammar(chooser)
        rules = parse_gbnf(grammar, lambda name: None)
        expected = [text for text in texts if matches(rules, text)]
        if expected:
            new = byte_grammars().gbnf(grammar)
            assert [text for text in texts if fits(new, text)] == expected, grammar
            compared += 1
    assert compared > 30


def _random_grammar(chooser: random.Random) -> str:
    names = ["root", "x", "y"][: chooser.randint(1, 3)]
    usable = names if chooser.random() < 0.4 else names[1:]
    return "\n".join(f"{name} ::= {_random_part(chooser, 3, usable)}" for name in names)


def _random_part(chooser: random.Random, depth: int, names: list[str]) -> str:
    kind = chooser.random()
    if depth == 0 or kind < 0.3:
        return chooser.choice(['"a"', '"b"', "[ab]", '"ab"', '"ba"', "[^a]", '"aa"', *names])
    if kind < 0.55:
        return " ".join(_random_part(chooser, depth - 1, names) for _ in range(chooser.randint(1, 3)))
    if kind < 0.75:
        return "(" + " | ".join(_random_part(chooser, depth - 1, names) for _ in range(chooser.randint(1, 3))) + ")"
    times = chooser.choice(["*", "+", "?", "{2}", "{1,2}", "{0,2}"])
    return f"({_random_part(chooser, depth - 1, names)}){times}"


def test_what_can_be_a_lexeme_is_one() -> None:
    """Else every character is a rule's, which a large vocabulary makes slow."""
    json = (
        'root ::= value\nvalue ::= "[" ws (value ("," ws value)*)? "]" ws | string | "true" ws\n'
        'string ::= "\\"" ([^"\\\\] | "\\\\" ["\\\\n])* "\\"" ws\nws ::= | " " | "\\n" [ \\t]{0,20}'
    )
    lark = gbnf_to_lark(json, lambda name: None, ())
    assert sorted(line[0] for line in lark.splitlines()) == ["T"] * 5 + ["r", "s"]
