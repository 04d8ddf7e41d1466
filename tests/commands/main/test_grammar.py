"""The flags that say what `powerinfer main` may write."""

import json
from pathlib import Path

import pytest

from tests.helpers.main_cli import powerinfer

SCHEMA = '{"properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}'


@pytest.fixture(params=["text", "file"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _given(way: str, flags: tuple[str, str], value: str, folder: Path) -> list[str]:
    """`value` as the flag's word, or in a file of which the other flag tells."""
    if way == "text":
        return [flags[0], value]
    path = folder / "value"
    path.write_text(value + "\n")
    return [flags[1], str(path)]


def test_a_grammar(words: str, way: str, tmp_path: Path) -> None:
    flags = _given(way, ("--grammar", "--grammar-file"), 'root ::= [x-z]{3} " " [0-9]', tmp_path)
    result = powerinfer("main", "-m", words, "-t", "1", "-p", "Once", "--no-display-prompt", "--temp", "2", *flags)
    assert result.code == 0
    assert len(result.out.strip()) == 5
    assert set(result.out[:3]) <= set("xyz")
    assert result.out[4].isdigit()
    assert "[end of text]" in result.err


@pytest.mark.parametrize("flags", [("-j", "-jf"), ("--json-schema", "--json-schema-file")])
def test_a_schema(words: str, way: str, flags: tuple[str, str], tmp_path: Path) -> None:
    given = _given(way, flags, SCHEMA, tmp_path)
    result = powerinfer("main", "-m", words, "-t", "1", "-p", "Once", "--no-display-prompt", "-s", "1", *given)
    assert result.code == 0
    assert json.loads(result.out)["n"] in (1, 2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--grammar", "root ::= ("], "bad grammar: line 1: expected ), found the end"),
        (["--grammar", ""], "bad grammar: it has no rule named root"),
        (["--grammar-file", "/nowhere/at/all"], "/nowhere/at/all: cannot read the text: No such file or directory"),
        (["-j", "{"], "--json-schema: not JSON: "),
        (["-j", "[" * 100_000], "--json-schema: not JSON: "),
        (["-j", "[1]"], "--json-schema: a schema is a JSON object, got [1]"),
        (["-j", '{"type": "hiccup"}'], 'bad JSON schema: type: unknown type "hiccup"'),
        (["-jf", "/nowhere"], "/nowhere: cannot read the text"),
    ],
)
def test_what_is_wrong_is_one_line(words: str, args: list[str], message: str) -> None:
    result = powerinfer("main", "-m", words, "-t", "1", "-p", "Once", *args)
    assert (result.code, result.out) == (1, "")
    assert message in result.error
    assert result.error.strip().count("\n") == 0


def test_what_is_not_enforced_is_said_once(words: str) -> None:
    schema = json.dumps({"properties": {"n": {"enum": [1]}, "a": {"type": "array", "uniqueItems": True}}})
    result = powerinfer("main", "-m", words, "-t", "1", "-p", "Once", "--no-display-prompt", "-n", "4", "-j", schema)
    assert result.code == 0
    assert result.err.count("warning: JSON schema: properties.a.uniqueItems is not enforced") == 1
    assert "uniqueItems" not in result.out


def test_one_form_at_a_time(words: str) -> None:
    result = powerinfer("main", "-m", words, "-j", "{}", "--grammar", 'root ::= "a"')
    assert result.code == 2
    assert "--grammar and --json-schema exclude each other" in result.error


def test_every_turn_has_the_form_anew(words: str) -> None:
    args = ["--grammar", 'root ::= "yes" | "no"', "-cnv", "-n", "20", "--simple-io"]
    result = powerinfer("main", "-m", words, "-t", "1", *args, stdin="Hello\nAgain\n")
    assert result.code == 0
    assert result.out.count("yes") + result.out.count("no") == 2


def test_the_help_tells_of_them() -> None:
    for command in ("main", "server"):
        text = powerinfer(command, "--help").out
        for flag in ("--grammar", "--grammar-file", "-j", "--json-schema", "-jf", "--json-schema-file"):
            assert flag in text
