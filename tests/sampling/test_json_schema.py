"""JSON by a schema: what may be written validates, whatever the model; what a schema leaves open is llama.cpp's."""

import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest

from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.sampling.forms import grammars_of
from powerinfer_cli.sampling.grammars.grammar import GrammarError
from tests.sampling.constrained_texts import bpe, bundled, byte_grammars, fits, written

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", 3, None]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "tags"],
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "v": {"type": "boolean"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["v", "next"],
        }
    },
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "person": PERSON,
    "tree": TREE,
    "const": {"const": {"a": [1, "é\n"]}},
    "enum": {"enum": ["red", 1.5, None, True, [1], {"a": {}}]},
    "types": {"type": ["integer", "null", "boolean"], "minimum": -9, "maximum": 99},
    "one of": {"oneOf": [{"type": "null"}, {"type": "string", "maxLength": 3}]},
    "all of": {
        "allOf": [
            {
                "type": "object",
                "properties": {"a": {"type": "integer", "minimum": -9, "maximum": 9}},
                "required": ["a"],
            },
            {"$ref": "#/definitions/b"},
        ],
        "definitions": {"b": {"properties": {"b": {"type": "null"}}, "required": ["b"]}},
    },
    "prefix": {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False, "minItems": 2},
    "numbers": {"type": "array", "items": {"type": "number", "minimum": 0.5, "maximum": 20}, "maxItems": 4},
    "exclusive": {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 1000},
    "pattern": {"type": "string", "pattern": "^[a-f]{2,4}-\\d+$"},
    "a name with brackets": {
        "type": "object",
        "properties": {"a": {"$ref": "#/definitions/Record<string,any>"}},
        "required": ["a"],
        "definitions": {"Record<string,any>": {"enum": [1, 2]}},
    },
    "loose pattern": {"type": "string", "pattern": "x", "maxLength": 5},
    "nested": {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}, "maxItems": 2},
    "others": {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 3},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "date-time": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
}
_DATE, _TIME = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?"
_ZONE, _BYTE = r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)", r"(25[0-5]|2[0-4]\d|1?\d?\d)"
FORMATS = {
    "date": _DATE,
    "time": _TIME + _ZONE,
    "date-time": f"{_DATE}[Tt]{_TIME}{_ZONE}",
    "uuid": "(?i:[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12})",
    "ipv4": rf"({_BYTE}\.){{3}}{_BYTE}",
}
HOT = SamplerOptions(temp=2.0, top_k=0, top_p=1.0, min_p=0.0)


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("tokenizer", [bundled(), bpe()], ids=["spm", "bpe"])
def test_what_a_hot_model_writes_validates(tokenizer: Any, name: str) -> None:
    new = grammars_of(tokenizer).json_schema(SCHEMAS[name])
    done = 0
    for seed in range(5):
        text = written(tokenizer, new, SamplerOptions(**{**vars(HOT), "seed": seed}))
        if text is not None:
            value = json.loads(text.decode())
            jsonschema.validate(value, SCHEMAS[name])
            if "format" in SCHEMAS[name]:
                assert re.fullmatch(FORMATS[name], value)
            done += 1
    assert done >= 2  # what has no bound may go on


def test_any_object() -> None:
    for tokenizer in (bundled(), bpe()):
        new = grammars_of(tokenizer).json_object()
        texts = [written(tokenizer, new, SamplerOptions(**{**vars(HOT), "seed": seed})) for seed in range(12)]
        objects = [json.loads(text) for text in texts if text is not None]
        assert len(objects) >= 3
        assert all(isinstance(one, dict) for one in objects)


def test_white_space_does_not_go_on_for_ever() -> None:
    """With a model that would rather write nothing else."""
    tokenizer = bundled()
    blank = np.array([not tokenizer.piece(i).strip() for i in range(tokenizer.vocab_size)])

    def blanks(rng: np.random.Generator, n_vocab: int) -> np.ndarray:
        return (rng.standard_normal(n_vocab) + 30 * blank).astype(np.float32)

    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    new = grammars_of(tokenizer).json_schema(schema)
    text = written(tokenizer, new, SamplerOptions(seed=1), flow=blanks, limit=150)
    assert text is not None
    assert json.loads(text)["a"] in (1, 2)
    runs = re.findall(rb"\s+", text)
    assert runs
    assert max(map(len, runs)) <= 21
    assert text.strip() == text


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({}, ["{}", '{"a": [1]}'], ["[]", "1", '"a"']),  # an empty schema is any object
        ({"properties": {"a": {"type": "null"}}}, ["{}", '{"a":null}', '{ "a" : null }'], ['{"b":1}', "1", '{"a":1}']),
        ({"properties": {"a": {}}, "additionalProperties": True}, ['{"b":1}'], ["[]"]),
        ({"type": "object"}, ['{"b":1}'], ["[]"]),
        ({"items": {"type": "integer"}}, ["[]", "[1,2]", "[ 1 ]"], ["1", "{}", '["a"]']),
        ({"items": [{"type": "integer"}, {}]}, ['[-3, "x"]'], ["[]", "[1]", "[1,2,3]"]),
        ({"pattern": "^a+$"}, ['"aa"'], ["1", '"b"']),
        ({"type": "string", "format": "no-such-format"}, ['"x"'], ["1"]),
        ({"properties": {"a": {}}, "required": ["a", "z"]}, ['{"a":1,"z":2}'], ['{"a":1}', '{"a":1,"z":2,"b":3}']),
        ({"properties": {"a": {}}, "required": None, "title": None}, ["{}", '{"a":1}'], ['{"b":1}']),
        ({"type": "string", "title": "T", "description": "D", "default": "d", "$comment": ""}, ['"x"'], ["1"]),
        (
            {"properties": {"b": {}, "a": {}}, "required": ["a", "b"]},
            ['{"b":1,"a":1}'],
            ['{"a":1,"b":1}', '{"a":1}', "{}"],
        ),
        ({"const": "é"}, ['"é"'], ['"e"']),
    ],
)
def test_what_a_schema_leaves_open(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    new = byte_grammars().json_schema(schema)
    assert [text for text in good if not fits(new, text)] == []
    assert [text for text in bad if fits(new, text)] == []


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (123, "should be an object, got 123"),
        (None, "should be an object, got null"),
        ({"type": "hiccup"}, 'type: unknown type "hiccup"'),
        ({"properties": {"a": {"type": 5}}}, "properties.a.type: unknown type 5"),
        ({"properties": [1]}, "properties: must be an object"),
        ({"$ref": "#/$defs/none"}, "'/$defs/none' does not exist"),
        ({"$ref": "http://example.com/x"}, "http://example.com/x"),
        ({"$ref": "#"}, "no text of this vocabulary matches it"),
        ({"type": "string", "pattern": "(a"}, "regex: unclosed group"),
        ({"type": "string", "pattern": "(?=a)"}, "regex: look-around"),
        ({"type": "array", "minItems": 5, "maxItems": 3}, "minItems (5) is greater than maxItems (3)"),
        (
            {"properties": {"a": {"anyOf": [{"type": "null"}, {"items": {"pattern": "^(?!x)[a-z]+$"}}]}}},
            "properties.a.anyOf[1].items.pattern: regex: look-around",
        ),
        ({"properties": {"a": {"required": [1]}}}, "properties.a.required: must hold strings"),
        ({"properties": {"a": {"type": "integer", "minimum": "0"}}}, "properties.a.minimum: must be a number"),
        ({"type": "string", "maxLength": True}, "maxLength: must be a number"),
        ({"oneOf": [{"type": "null"}, {"enum": 1}]}, "oneOf[1].enum: must be an array"),
        ({"oneOf": [{"type": "null"}, {"$ref": "#/x"}], "x": {"required": 1}}, "x.required: must be an array"),
        ({"type": "object", "not": {"required": [[]]}}, "not.required: must hold strings"),
        ({"if": {"properties": {"a": {"type": [{}]}}}}, "if.properties.a.type: unknown type"),
        ({"then": {"properties": True}}, "then.properties: must be an object"),
        ({"propertyNames": {"pattern": []}}, "propertyNames.pattern: must be a string"),
        ({"dependentRequired": {"a": [{}]}}, "dependentRequired: must hold strings"),
        ({"properties": {"a": {}}, "required": ["b"], "additionalProperties": False}, "required: Unsatisfiable"),
        ({"type": "integer", "minimum": 2**63}, "minimum"),
        ({"type": "integer", "maximum": -(2**63) - 1}, "maximum"),
        ({"enum": [1, 9007199254740993]}, "enum: 9007199254740993 is beyond 2^53"),
        ({"const": {"a": [9007199254740993]}}, "const: 9007199254740993 is beyond 2^53"),
        ({"const": float("inf")}, "not JSON compliant"),
        ({"const": 1, "type": "string"}, "Unsatisfiable"),
    ],
)
def test_what_is_no_schema_is_said_in_one_line(schema: Any, words: str) -> None:
    with pytest.raises(GrammarError) as caught:
        byte_grammars().json_schema(schema)
    assert words in str(caught.value)
    assert str(caught.value).startswith("bad JSON schema: ")
    assert "\n" not in str(caught.value)


def test_lark_with_json() -> None:
    new = byte_grammars().lark('start: "f(" json ")"\njson: %json {"enum": [1, 2]}')
    assert fits(new, "f(2)")
    assert not fits(new, "f(3)")
    with pytest.raises(GrammarError, match='unknown name: "nothing"'):
        byte_grammars().lark("start: nothing")
