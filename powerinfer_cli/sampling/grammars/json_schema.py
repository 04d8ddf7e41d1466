"""A JSON schema as llguidance takes it, with llama.cpp's readings of what schemas leave open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from powerinfer_cli.printable import printable
from powerinfer_cli.sampling.grammars.grammar_error import MOST_NAMES, GrammarError
from powerinfer_cli.sampling.grammars.schema_keywords import KEYWORDS, Handling
from powerinfer_cli.sampling.grammars.schema_rewrites import rewrite

__all__ = ["ANY_OBJECT", "ReadSchema", "read_schema"]

ANY_OBJECT: dict[str, Any] = {"type": "object"}

_DEEPEST = 100  # of a schema; what reads it is recursive
_LONGEST = 1 << 20  # characters
_MOST_PARTS = 20_000  # objects and arrays: a third of a second
_MOST_PROPERTIES = 1000  # of one object; llguidance takes 0.1 s for these, and four times as long for each doubling
_MOST_NOTES = 20
_DRAFTS = ("https://json-schema.org/", "http://json-schema.org/")  # which llguidance has, as far as it goes
_EXACT = 1 << 53  # up to here every integer is a double
_GUIDANCE = {
    # llama.cpp's white space: none, a blank, or a line and its indentation. Bounded, so that no model, however hot,
    # writes blanks for ever.
    "whitespace_pattern": r" |\n[ \t]{0,20}",
    # What is not implemented is not checked, as with llama.cpp: the text is still JSON of the shape asked for.
    "lenient": True,
}
# A schema without a type that has one of these means this type.
_TELLING = {
    "object": ("properties", "required", "additionalProperties", "patternProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
}
_COMBINED = ("allOf", "anyOf", "oneOf", "$ref")
_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_NAMED = ("properties", "$defs", "definitions", "patternProperties")
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_SHAPES: dict[str, tuple[type, str]] = {
    **dict.fromkeys((*_NAMED, "dependentRequired", "dependencies", "dependentSchemas"), (dict, "an object")),
    **dict.fromkeys(("required", "enum", "allOf", "anyOf", "oneOf", "prefixItems"), (list, "an array")),
    **dict.fromkeys(("pattern", "$ref", "format"), (str, "a string")),
}
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", *_COUNTS)
_INSIDE = ("items", "additionalProperties", "additionalItems", "if", "then", "else", "not", "propertyNames")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_IN_REFERENCES = "%/#?:@!$&'()*+,;=~"  # besides letters; generators write "Record<string,any>" as it is


@dataclass(frozen=True)
class ReadSchema:
    """text: for Lark's %json. loose: a line for each keyword that is not held, which says where it is."""

    text: str
    loose: tuple[str, ...] = ()


def read_schema(schema: Any) -> ReadSchema:
    """What JSON `schema` describes. Raises GrammarError for what is none.

    Where the schema leaves it open: an empty schema is any object, not any value; an object with `properties` has no
    others but those that are required, unless `additionalProperties` says so; properties come in the order in which the
    schema has them; keywords tell the type where none is given; `items` as a list are the first items. White space is
    optional and bounded. What is done with each keyword: schema_keywords.py.
    """
    if not isinstance(schema, dict):
        raise GrammarError(f"bad JSON schema: it should be an object, got {json.dumps(schema, default=str)[:80]}")
    _check_depth(schema)
    _written(schema)
    _check_references(schema)
    _check_all_shapes(schema, ())
    reading = _Reading(schema)
    prepared = reading.prepare(schema or ANY_OBJECT, (), closed=True)
    prepared.pop("$schema", None)  # it is no longer of that draft: lists of items are prefixItems by now
    return ReadSchema(_written({**prepared, "x-guidance": _GUIDANCE}), tuple(dict.fromkeys(reading.loose)))


def _written(schema: dict[str, Any]) -> str:
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise GrammarError(f"bad JSON schema: {error}") from None
    if len(text) > _LONGEST:
        raise GrammarError(f"the JSON schema is too long: {len(text)} characters, {_LONGEST} are the limit")
    return text


def _check_depth(schema: Any) -> None:
    level: list[Any] = [schema]
    parts = 0
    for _ in range(_DEEPEST):
        level = [child for node in level for child in _children(node)]
        parts += len(level)
        if parts > _MOST_PARTS:
            raise GrammarError(f"the JSON schema has more than {_MOST_PARTS} objects and arrays in it")
        if not level:
            return
    raise GrammarError(f"the JSON schema is nested deeper than {_DEEPEST}")


def _check_references(schema: Any) -> None:
    """The worst that can be: all that the schema refers to, one within the other."""
    depths: dict[int, int] = {}
    _note_depths(schema, depths)
    targets = {id(_target(schema, ref)) for ref in _refs(schema) if ref.startswith("#/")}
    total = depths[id(schema)] + sum(depths.get(target, 0) for target in targets)
    if total > MOST_NAMES:
        raise GrammarError(f"the JSON schema is too deep with what it refers to: {total} levels of {MOST_NAMES}")


def _note_depths(node: Any, depths: dict[int, int]) -> int:
    """How many levels there are from each object and list on, by its id."""
    depth = 1 + max((_note_depths(child, depths) for child in _children(node)), default=0)
    depths[id(node)] = depth
    return depth


def _refs(schema: Any) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        waiting += _children(node)
        if isinstance(node, dict) and isinstance(node.get("$ref"), str):
            yield node["$ref"]


def _target(schema: Any, ref: str) -> Any:
    """What a JSON pointer points to; None where it points to nothing, which llguidance will say."""
    for step in unquote(ref[2:]).split("/"):
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list):
            schema = schema[int(key)] if key.isdecimal() and len(key) < 9 and int(key) < len(schema) else None
        else:
            schema = schema.get(key) if isinstance(schema, dict) else None
    return schema


def _children(node: Any) -> Iterator[Any]:
    """The objects and lists in an object or a list."""
    inside = node.values() if isinstance(node, dict) else node
    yield from (child for child in inside if isinstance(child, dict | list))


def _refs_in_all_of(node: Any) -> Iterator[str]:
    """Where the parts of an allOf point to: these are merged with their siblings, and must stay open."""
    if isinstance(node, dict) and isinstance(node.get("allOf"), list):
        for part in node["allOf"]:
            if isinstance(part, dict) and isinstance(part.get("$ref"), str):
                yield part["$ref"]
    for child in _children(node):
        yield from _refs_in_all_of(child)


class _Reading:
    """Fills in what a schema leaves open, and rewrites what llguidance does not know."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema
        self._merged = frozenset(_refs_in_all_of(schema))
        self._movable = all(ref == "#" or ref.startswith(("#/$defs/", "#/definitions/")) for ref in _refs(schema))
        self._checked: set[int] = set()  # ids of what was pointed to
        self.loose: list[str] = []

    def prepare(self, schema: Any, path: tuple[str, ...], *, closed: bool) -> Any:
        """`schema`, which stands at `path`; `closed`: properties that nothing names are out."""
        if not isinstance(schema, dict):
            return schema
        result = dict(schema)
        for key in [key for key, value in result.items() if value is None and key not in ("const", "default")]:
            del result[key]  # some generators write `"required": null` for a keyword that is not there
        for key in _COUNTS:
            if isinstance(count := result.get(key), float) and count.is_integer():
                result[key] = int(count)
        if "$ref" in result:
            result["$ref"] = quote(result["$ref"], _IN_REFERENCES)
        _tell_type(result)
        _tuple_items(result)
        result = rewrite(result, self._resolved, lambda key, why: self._note(path, key, why), movable=self._movable)
        for key in result:
            if KEYWORDS.get(key) is Handling.LOOSE:
                self._note(path, key, "")
        if str(result.get("$ref", "")).startswith(_DRAFTS):
            self._note(path, "$ref", "of a schema of schemas")
        open_parts = any(key in result for key in _COMBINED)
        merged = "#" + "".join(f"/{step}" for step in path) in self._merged
        if closed and "properties" in result and not open_parts and not merged:
            self._close(result)
        return {key: self._below(key, value, result, (*path, key)) for key, value in result.items()}

    def _below(self, key: str, value: Any, owner: dict[str, Any], path: tuple[str, ...]) -> Any:
        if key in _NAMED and isinstance(value, dict):
            return {name: self.prepare(part, (*path, name), closed=True) for name, part in value.items()}
        if key in ("items", "additionalProperties"):
            return self.prepare(value, path, closed=True)
        if key in ("allOf", "anyOf", "oneOf", "prefixItems") and isinstance(value, list):
            alone = key == "prefixItems" or (key != "allOf" and set(owner).isdisjoint({"properties", "allOf"}))
            return [self.prepare(part, (*path, str(i)), closed=alone) for i, part in enumerate(value)]
        if key in ("const", "enum"):
            _check_integers(value, path)
        return value

    def _close(self, schema: dict[str, Any]) -> None:
        """No properties but those that are named; what is required is, too."""
        if "additionalProperties" not in schema:
            schema["additionalProperties"] = False
            missing = [name for name in schema.get("required", ()) if name not in schema["properties"]]
            schema["properties"] = {**schema["properties"], **dict.fromkeys(missing, True)}

    def _note(self, path: tuple[str, ...], key: str, why: str) -> None:
        if len(self.loose) < _MOST_NOTES:
            self.loose.append(f"{_where((*path, key))} is not enforced" + (f": {why}" if why else ""))

    def _resolved(self, schema: Any) -> Any:
        """What a $ref in the schema itself points to."""
        ref = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(ref, str) or not ref.startswith("#/"):
            return schema
        target = _target(self._root, ref)
        if id(target) not in self._checked:
            self._checked.add(id(target))
            _check_all_shapes(target, tuple(unquote(ref[2:]).split("/")))
        return target


def _where(path: tuple[str, ...]) -> str:
    """properties.a.anyOf[1]"""
    text = ""
    for step in path:
        text += f"[{step}]" if step.isdecimal() else f".{step}" if text else step
    return printable(text[:200])


def _check_all_shapes(schema: Any, path: tuple[str, ...]) -> None:
    """Of a schema and of all within it, before any is rewritten with the help of what is below it."""
    if not isinstance(schema, dict):
        return
    _check_shapes({key: value for key, value in schema.items() if value is not None}, path)
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            for name, part in value.items():
                _check_all_shapes(part, (*path, key, name))
        elif key in _LISTS and isinstance(value, list):
            for i, part in enumerate(value):
                _check_all_shapes(part, (*path, key, str(i)))
        elif key in _INSIDE:
            _check_all_shapes(value, (*path, key))


def _check_shapes(schema: dict[str, Any], path: tuple[str, ...]) -> None:
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if "type" in schema and not all(isinstance(one, str) and one in _TYPES for one in kinds):
        raise _bad((*path, "type"), f"unknown type {json.dumps(kind, default=str)[:80]}")
    for key, (shape, words) in _SHAPES.items():
        if key in schema and not isinstance(schema[key], shape):
            raise _bad((*path, key), f"must be {words}")
    for key in _NUMBERS:
        is_number = type(schema.get(key, 0)) in (int, float)
        if not is_number and not (key.startswith("exclusive") and isinstance(schema[key], bool)):  # draft 4
            raise _bad((*path, key), "must be a number")
    for key in ("required", "dependentRequired", "dependencies"):
        value = schema.get(key, {})
        for names in value.values() if isinstance(value, dict) else [value]:
            if isinstance(names, list) and not all(isinstance(name, str) for name in names):
                raise _bad((*path, key), "must hold strings")
    for key in ("properties", "required", "patternProperties"):
        if len(schema.get(key, ())) > _MOST_PROPERTIES:
            raise _bad((*path, key), f"more than {_MOST_PROPERTIES} names")


def _check_integers(value: Any, path: tuple[str, ...]) -> None:
    """llguidance would write the nearest double instead."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, int) and not isinstance(one, bool) and abs(one) > _EXACT:
            raise _bad(path, f"{str(one)[:40]} is beyond 2^53, where an integer cannot be told from its neighbours")
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def _bad(path: tuple[str, ...], reason: str) -> GrammarError:
    return GrammarError(f"bad JSON schema: {_where(path)}: {reason}")


def _tell_type(schema: dict[str, Any]) -> None:
    if not any(key in schema for key in ("type", "enum", "const", *_COMBINED)):
        for kind, keys in _TELLING.items():
            if any(key in schema for key in keys):
                schema["type"] = kind
                return


def _tuple_items(schema: dict[str, Any]) -> None:
    """The older drafts' way to write prefixItems; llama.cpp reads a list as exactly these items."""
    if isinstance(schema.get("items"), list):
        items = schema.pop("items")
        schema.setdefault("prefixItems", items)
        schema["items"] = schema.pop("additionalItems", False)
        schema.setdefault("minItems", len(items))
