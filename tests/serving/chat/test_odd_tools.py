"""One odd tool among others: its arguments are held as far as they can be, the others' wholly, and the log says so."""

import datetime
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from powerinfer_cli.sampling.forms import grammars_of
from powerinfer_cli.sampling.grammars.grammar import Grammars
from tests.sampling.constrained_texts import byte_grammars, fits
from tests.serving.chat.fake_chat import WEATHER, ask
from tests.serving.fake_service import bundled_tokenizer

EMAIL = {"type": "object", "properties": {"to": {"type": "string", "pattern": "^(?!x)[a-z]+$"}, "n": {"type": "null"}}}
# parameters, texts that fit what is held of them, texts that do not, what is said
ODD: list[tuple[dict[str, Any], list[str], list[str], str]] = [
    (
        {**EMAIL, "required": ["to"]},
        ['{"to":"x"}', '{"to":"a","n":null}'],
        ['{"to":1}', '{"n":null}'],
        ".properties.to.pattern: regex: look-around",
    ),
    ({"type": "object", "properties": {"a": {}}, "required": ["a", "z"]}, ['{"a":1,"z":2}'], ['{"a":1}'], ""),
    ({"type": "object", "properties": {"a": {}}, "required": None}, ["{}"], ['{"b":1}'], ""),
    (
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}}},
        ['{"a":9223372036854775807}'],
        ['{"a":9223372036854775808}'],
        "",
    ),
    (
        {"type": "object", "properties": {"id": {"enum": [123456789012345679]}, "b": {"type": "null"}}},
        ['{"id":123456789012345679,"b":null}'],
        ['{"b":1}'],
        ".properties.id.enum: 123456789012345679 is beyond 2^53",
    ),
    (
        {"type": "object", "properties": {"a": {"type": "date"}, "b": {"type": "null"}}},
        ['{"a":"x","b":null}'],
        ['{"b":1}'],
        ".properties.a.type: unknown type",
    ),
    (
        {"type": "object", "$defs": {"E": {"items": {"pattern": "(?=a)"}}}, "properties": {"a": {"$ref": "#/$defs/E"}}},
        ['{"a":["b"]}'],
        ['{"a":[1]}', '{"a":{}}'],
        ".$defs.E.items.pattern: regex",
    ),
    (
        {"type": "object", "properties": {"a": {"$ref": "http://x/y"}, "b": {"type": "null"}}},
        ['{"a":1}'],
        ['{"b":1}'],
        ".properties.a.$ref: ",
    ),
    (
        {"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, {"pattern": "(?<!a)b"}]}}},
        ['{"a":"x"}', '{"a":null}'],
        ['{"a":1}'],
        ".properties.a.anyOf[1].pattern: ",
    ),
    ({"type": "array"}, ["{}", '{"a":1}'], ["[]"], ": it describes no object"),
    ({"type": "object", "properties": [1]}, ["{}", '{"a":1}'], ["1"], ".properties: must be an object"),
    ({"type": ["object", "null"], "properties": {"a": {"type": "null"}}}, ['{"a":null}'], ["null", '{"a":1}'], ""),
    (
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": "0"}}},
        ['{"a":-1}'],
        ['{"a":"x"}'],
        ".properties.a.minimum: must be a number",
    ),
]


@pytest.mark.parametrize(("schema", "good", "bad", "words"), ODD)
def test_what_can_be_held_is(schema: dict[str, Any], good: list[str], bad: list[str], words: str) -> None:
    lines: list[str] = []
    grammars = Grammars([bytes([byte]) for byte in range(256)], frozenset(), {}, lines.append)
    text = grammars.mended_schema(schema, "tools[1].function.parameters")
    new = byte_grammars().lark(f"start: %json {text}\n")
    assert [one for one in good if not fits(new, one)] == []
    assert [one for one in bad if fits(new, one)] == []
    assert [line.startswith(f"tools[1].function.parameters{words}") for line in lines] == [True] * bool(words)
    assert "Lark" not in "".join(lines)


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("schema", [case[0] for case in ODD])
def test_a_request_with_one_odd_tool_is_answered(schema: dict[str, Any], choice: str) -> None:
    odd = {"type": "function", "function": {"name": "odd", "parameters": schema}}
    answer, service = ask({"tools": [WEATHER, odd], "tool_choice": choice}, model="hermes")
    assert answer.status_code == 200, answer.text
    assert len(service.tasks) == 1


def test_tools_that_are_too_much_together_take_any_objects() -> None:
    many = {
        f"p{i}": {"type": "object", "properties": {"q": {"enum": [f"{i}-{j}" for j in range(40)]}}} for i in range(400)
    }
    tools = [
        {"type": "function", "function": {"name": f"t{i}", "parameters": {"type": "object", "properties": many}}}
        for i in range(2)
    ]
    answer, _ = ask({"tools": tools, "tool_choice": "required"}, model="hermes")
    assert answer.status_code == 200, answer.text


def test_response_formats_fail_with_the_place() -> None:
    answer, _ = ask({"response_format": {"type": "json_schema", "json_schema": {"schema": EMAIL}}})
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert "properties.to.pattern: regex: look-around" in message
    assert "Lark" not in message


def test_names_of_others_make_no_lines_in_the_log() -> None:
    lines: list[str] = []
    grammars = Grammars([bytes([byte]) for byte in range(256)], frozenset(), {}, lines.append)
    name = "a\nPOST /completion 200 \x1b[2J" + "b" * 500
    for schema in ({"pattern": "(?=a)"}, {"type": "array", "uniqueItems": True}):
        grammars.mended_schema({"type": "object", "properties": {name: schema}}, "tools[0].function.parameters")
    assert len(lines) == 2
    assert all(line.isprintable() and len(line) < 400 for line in lines)


def test_looking_for_faults_is_bounded() -> None:
    grammars = grammars_of(bundled_tokenizer())
    bad = {"type": "string", "pattern": "(?!a)b"}
    wide = {"type": "object", "properties": {f"p{i}": {**bad, "maxLength": i} for i in range(2000)}}
    assert json.loads(grammars.mended_schema(wide, "here"))["type"] == "object"
    deep: dict[str, Any] = bad
    for _ in range(40):
        deep = {"type": "object", "properties": {"a": deep, "b": deep}}
        if len(json.dumps(deep)) > 100_000:
            break
    assert json.loads(grammars.mended_schema(deep, "here"))["type"] == "object"


LOOK_AROUND = {"properties.opt.pattern", "properties.emoji.pattern", "properties.pw.pattern"}
GENERATED = json.loads((Path(__file__).parents[2] / "data" / "generated_schemas.json").read_text("utf-8"))


@pytest.mark.parametrize("name", GENERATED)
def test_what_generators_write_is_held_but_for_look_around(name: str) -> None:
    """zod 4, typescript-json-schema: all kinds of types that they have."""
    lines: list[str] = []
    grammars = Grammars([bytes([byte]) for byte in range(256)], frozenset(), {}, lines.append)
    text = grammars.mended_schema(GENERATED[name], "tool")
    grammars.lark(f"start: %json {text}\n")
    left_out = {line.split(": ")[0].removeprefix("tool.") for line in lines if line.endswith("(it is left out)")}
    assert left_out <= LOOK_AROUND
    loose = [line for line in lines if not line.endswith("(it is left out)")]
    assert all("format is not enforced" in line or "uniqueItems is not" in line for line in loose)


class Place(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["city"]
    name: Annotated[str, Field(pattern=r"^[A-Z]\w+$")]
    parts: list["Place"] = []


class Shop(BaseModel):
    kind: Literal["shop"]
    opened: datetime.date | None = None
    at: tuple[float, float]
    codes: dict[Annotated[str, Field(pattern="^[a-z]+$")], Decimal] = {}


class Trip(BaseModel):
    stops: Annotated[list[Annotated[Place | Shop, Field(discriminator="kind")]], Field(min_length=1)]
    who: set[uuid.UUID]
    big: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


def test_what_pydantic_writes_is_held() -> None:
    lines: list[str] = []
    grammars = Grammars([bytes([byte]) for byte in range(256)], frozenset(), {}, lines.append)
    text = grammars.mended_schema(Trip.model_json_schema(), "tool")
    assert [line for line in lines if "codes" not in line] == ["tool.properties.who.uniqueItems is not enforced"]
    new = byte_grammars().lark(f"start: %json {text}\n")
    start = '{"stops":[{"kind":"city","name":"Rome"}],"who":[],"big":'
    assert fits(new, start + f"{2**63 - 1}}}")
    assert not fits(new, start + f"{2**63}}}")
    assert not fits(new, start.replace("Rome", "rome") + "1}")
