"""Each keyword of JSON Schema: held as it is, or rewritten, or said to be loose. None is dropped in silence."""

from typing import Any

import pytest

from powerinfer_cli.sampling.grammars.grammar import Grammars
from powerinfer_cli.sampling.grammars.json_schema import read_schema
from powerinfer_cli.sampling.grammars.schema_keywords import KEYWORDS, Handling
from tests.sampling.constrained_texts import byte_grammars, fits

NAMES: dict[str, Any] = {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}
KIND: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"enum": ["x", "y", "z"]}, "n": {"type": "integer"}},
    "required": ["kind"],
    "additionalProperties": False,
}
IS_X: dict[str, Any] = {"properties": {"kind": {"const": "x"}}, "required": ["kind"]}
IS_Y: dict[str, Any] = {"properties": {"kind": {"enum": ["y"]}}}
N = {"required": ["n"]}
FULL = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
# schema, texts that fit, texts that do not
REWRITTEN: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (
        {"properties": NAMES, "dependentRequired": {"a": ["b"]}},
        ["{}", '{"b":null}', '{"a":null,"b":null}'],
        ['{"a":null}'],
    ),
    ({"properties": NAMES, "dependencies": {"a": ["b"]}}, ["{}", '{"a":null,"b":null}'], ['{"a":null,"c":null}']),
    (
        {"properties": NAMES, "required": ["a"], "dependentRequired": {"a": ["b"], "b": ["c"]}},
        ['{"a":null,"b":null,"c":null}'],
        ["{}", '{"a":null,"b":null}'],
    ),
    (
        {**KIND, "if": IS_X, "then": N},
        ['{"kind":"x","n":1}', '{"kind":"y"}', '{"kind":"y","n":1}'],
        ['{"kind":"x"}', "{}"],
    ),
    ({**KIND, "if": IS_X, "else": N}, ['{"kind":"x"}', '{"kind":"y","n":1}'], ['{"kind":"y"}']),
    ({**KIND, "if": IS_X, "then": False}, ['{"kind":"y"}'], ['{"kind":"x"}']),
    (
        {**KIND, "allOf": [{"if": IS_X, "then": N}, {"if": IS_Y, "then": {"properties": {"n": False}}}]},
        ['{"kind":"x","n":1}', '{"kind":"y"}', '{"kind":"z"}', '{"kind":"z","n":1}'],
        ['{"kind":"x"}', '{"kind":"y","n":1}'],
    ),
    (
        {**KIND, "if": IS_X, "then": {"properties": {"n": {"minimum": 5, "type": "integer"}}}},
        ['{"kind":"x","n":5}', '{"kind":"y","n":4}'],
        ['{"kind":"x","n":4}'],
    ),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, ["{}", '{"a":1}', '{"a":1,"b":2}'], ['{"c":1}']),
    ({"propertyNames": {"pattern": "^x-"}, "type": "object"}, ['{"x-a":1}'], ['{"a":1}']),
    (
        {"propertyNames": {"maxLength": 2}, "additionalProperties": {"type": "null"}},
        ['{"ab":null}'],
        ['{"abc":null}', '{"a":1}'],
    ),
    ({"type": "object", "propertyNames": {"type": "string"}}, ['{"c":1}'], ["1"]),
    ({"enum": [1, 2, 3], "not": {"const": 2}}, ["1", "3"], ["2"]),
    ({"enum": ["a", "b"], "not": {"enum": ["a"]}}, ['"b"'], ['"a"']),
    ({"type": "object", "properties": NAMES, "not": {"required": ["a"]}}, ["{}", '{"b":null}'], ['{"a":null}']),
    ({"type": "array", "uniqueItems": True, "maxItems": 1}, ["[]", "[1]"], ["[1,1]"]),
    ({"type": "array", "uniqueItems": False}, ["[1,1]"], []),
    ({"oneOf": [{"type": "null"}, {"const": 1}, {"type": "array"}]}, ["null", "1", "[]"], ["2"]),
    ({"type": "number", "minimum": 3, "exclusiveMinimum": True}, ["3.5"], ["3"]),
    ({"type": "integer", "maximum": 3, "exclusiveMaximum": False}, ["3"], ["4"]),
    ({"type": "object", "minProperties": 1, "properties": NAMES}, ['{"b":null}'], ["{}"]),
    ({"type": "object", "maxProperties": 1}, ["{}", '{"a":1}'], ['{"a":1,"b":2}']),
    ({**FULL, "type": ["integer", "null"]}, ["0", "null", str(2**63 - 1)], [str(2**63)]),
    ({"type": ["null", "integer"], "exclusiveMinimum": 2**63}, ["null"], ["1"]),
    ({"type": "integer", "minimum": -9.223372036854775808e18, "maximum": 2.0**63}, ["0"], [str(2**63)]),
    ({"type": "number", "minimum": -3.4028234663852886e38, "maximum": 3.4028234663852886e38}, ["-0.5"], ["1" * 40]),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 2**63 - 1}, ["0.5", "7"], ["0", str(2**63)]),
    ({"type": "object", "properties": {**NAMES, "n": {"not": {}}}}, ["{}", '{"a":null}'], ['{"n":1}']),
    (FULL, ["0", str(2**63 - 1), str(1024 - 2**63)], [str(2**63), str(-(2**63) - 1)]),
    ({"type": "integer", "minimum": 2**53 + 1}, [str(2**53 + 2)], [str(2**53), str(2**53 - 1)]),
    ({"type": "integer", "maximum": -(2**53) - 1}, [str(-(2**53) - 2)], [str(-(2**53))]),
    ({"type": "integer", "exclusiveMaximum": 2**53 + 2}, [str(2**53)], [str(2**53 + 2)]),
    ({"type": "integer", "minimum": 2**60}, [str(2**60), str(2**63 - 1)], [str(2**60 - 1)]),
]
# schema, what is said
LOOSE: list[tuple[dict[str, Any], str]] = [
    ({"type": "array", "uniqueItems": True}, "uniqueItems is not enforced"),
    ({"type": "array", "items": {"type": "array", "contains": {"const": 1}}}, "items.contains is not enforced"),
    ({"type": "array", "contains": {}, "minContains": 2, "maxContains": 3}, "minContains is not enforced"),
    ({"type": "integer", "not": {"minimum": 3}}, "not is not enforced"),
    ({"type": "string", "format": "iri"}, "format is not enforced: 'iri' is not checked"),
    (
        {"properties": {"a": {"type": "object", "propertyNames": {"format": "uri"}}}},
        "properties.a.propertyNames is not",
    ),
    ({"properties": NAMES, "minProperties": 2}, "minProperties is not enforced: some of the properties are optional"),
    ({"properties": NAMES, "if": {"required": ["a"]}, "then": {"required": ["b"]}}, "if is not enforced: it does not"),
    ({"properties": NAMES, "dependentSchemas": {"a": {"required": ["b"]}}}, "dependentSchemas is not enforced"),
    ({"properties": NAMES, "dependencies": {"a": {"required": ["b"]}}}, "dependencies.a is not enforced"),
    (
        {"anyOf": [{"oneOf": [{"type": "integer"}, {"type": "number"}]}]},
        "anyOf[0].oneOf is not enforced: more than one",
    ),
    ({"allOf": [{"properties": NAMES}], "unevaluatedProperties": False}, "unevaluatedProperties is not enforced"),
    ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "$ref is not enforced"),
    ({"type": "array", "unevaluatedItems": False}, "unevaluatedItems is not enforced"),
    ({"type": "object", "properties": {"a": {"$dynamicRef": "#x"}}}, "properties.a.$dynamicRef is not enforced"),
    ({"type": "object", "properties": {"a": {"$recursiveRef": "#"}}}, "properties.a.$recursiveRef is not enforced"),
]


@pytest.mark.parametrize(("schema", "good", "bad"), REWRITTEN)
def test_what_is_rewritten_is_held(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    assert read_schema(schema).loose == ()
    new = byte_grammars().json_schema(schema)
    assert [text for text in good if not fits(new, text)] == []
    assert [text for text in bad if fits(new, text)] == []


@pytest.mark.parametrize(("schema", "words"), LOOSE)
def test_what_is_not_held_is_said(schema: dict[str, Any], words: str) -> None:
    assert any(words in line for line in read_schema(schema).loose)
    byte_grammars().json_schema(schema)


def test_every_loose_or_rewritten_keyword_has_a_case() -> None:
    cases = str(REWRITTEN) + str(LOOSE)
    wanted = [word for word, handling in KEYWORDS.items() if handling in (Handling.LOOSE, Handling.REWRITTEN)]
    assert [word for word in wanted if f"'{word}'" not in cases] == []


def test_annotations_are_silent() -> None:
    schema = dict.fromkeys((word for word, handling in KEYWORDS.items() if handling is Handling.SILENT), "x")
    assert read_schema({"type": "null", **schema, "examples": [1], "x-order": 3, "nullable": True}).loose == ()


def test_each_warning_comes_once() -> None:
    lines: list[str] = []
    grammars = Grammars([bytes([byte]) for byte in range(256)], frozenset(), {}, lines.append)
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    for _ in range(2):
        grammars.json_schema(schema)
        grammars.mended_schema(schema, "tools[0].function.parameters")
    assert lines == [
        "JSON schema: properties.a.uniqueItems is not enforced",
        "tools[0].function.parameters.properties.a.uniqueItems is not enforced",
    ]
