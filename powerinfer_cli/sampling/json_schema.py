"""A JSON schema as llguidance takes it, with llama.cpp's readings of what schemas leave open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from powerinfer_cli.sampling.grammar_error import MOST_NAMES, GrammarError

__all__ = ["ANY_OBJECT", "lark_of_schema"]

ANY_OBJECT: dict[str, Any] = {"type": "object"}

_DEEPEST = 100  # of a schema; what reads it is recursive
_LONGEST = 1 << 20  # characters
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


def lark_of_schema(schema: Any) -> str:
    """A Lark grammar of the JSON that `schema` describes. Raises GrammarError.

    Where the schema leaves it open: an empty schema is any object, not any value; an object with `properties` has no
    others unless `additionalProperties` says so; properties come in the order in which the schema has them; keywords
    tell the type where none is given; `items` as a list are the first items. Keywords that llguidance does not know
    (`not`, `if`, `uniqueItems`, `contains`, ...) are not enforced. White space is optional and bounded.
    """
    return f"start: %json {json_of_schema(schema)}\n"


def json_of_schema(schema: Any) -> str:
    """The schema for Lark's %json."""
    if not isinstance(schema, dict):
        raise GrammarError(f"bad JSON schema: it should be an object, got {json.dumps(schema, default=str)[:80]}")
    _check_depth(schema)
    _written(schema)
    _check_references(schema)
    merged = frozenset(_refs_in_all_of(schema))
    prepared = _prepare(schema or ANY_OBJECT, "#", merged, closed=True)
    return _written({**prepared, "x-guidance": _GUIDANCE})


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
    for _ in range(_DEEPEST):
        level = [child for node in level for child in _children(node)]
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


def _prepare(schema: Any, path: str, merged: frozenset[str], *, closed: bool) -> Any:
    """`schema`, which stands at `path`, with what it leaves open filled in; `closed`: unnamed properties are out."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    _check_type(schema, path)
    _tell_type(result)
    _tuple_items(result)
    open_parts = any(key in result for key in _COMBINED)
    if closed and "properties" in result and not open_parts and path not in merged:
        result.setdefault("additionalProperties", False)
    for key, value in result.items():
        below = f"{path}/{key}"
        if key in ("properties", "$defs", "definitions", "patternProperties") and isinstance(value, dict):
            result[key] = {name: _prepare(part, f"{below}/{name}", merged, closed=True) for name, part in value.items()}
        elif key in ("items", "additionalProperties"):
            result[key] = _prepare(value, below, merged, closed=True)
        elif key in ("allOf", "anyOf", "oneOf", "prefixItems") and isinstance(value, list):
            alone = key == "prefixItems" or (key != "allOf" and set(result).isdisjoint({"properties", "allOf"}))
            result[key] = [_prepare(part, f"{below}/{i}", merged, closed=alone) for i, part in enumerate(value)]
    return result


def _check_type(schema: dict[str, Any], path: str) -> None:
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if "type" in schema and not all(isinstance(one, str) and one in _TYPES for one in kinds):
        raise GrammarError(f"bad JSON schema: unknown type {json.dumps(kind, default=str)[:80]} at {path[:200]}")


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
