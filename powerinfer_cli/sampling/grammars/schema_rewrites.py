"""Keywords that llguidance does not know, written with those that it does, where that is exact and small."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any, TypeAlias

from powerinfer_cli.sampling.grammars.schema_keywords import FORMATS

__all__ = ["rewrite"]

Schema: TypeAlias = dict[str, Any]
Note: TypeAlias = Callable[[str, str], None]
"""Takes a keyword that stays loose, and why."""

_MOST_CHOICES = 3  # of dependencies: each doubles the alternatives
_MOST_VALUES = 64  # that decide between conditions
_MOST_MERGED = 256  # conditions in branches
_MOST_ALTERNATIVES = 32  # of oneOf that are compared
_LARGEST_CHOICE = 100_000  # characters of all branches
_KEPT_ABOVE = ("$defs", "definitions", "$schema", "$id", "title", "description", "x-guidance")
_PLAIN = {"properties", "required", "type", "title", "description", "$comment"}
_EXACT = 1 << 53  # up to here every integer is a double, which is what llguidance counts with
_LARGEST = 1 << 63
_LARGEST_NUMBER = 10**18  # that can be an end of what has digits behind the point
_NO_NUMBER = {"minimum": 1, "maximum": 0}


def rewrite(schema: Schema, resolve: Callable[[Any], Any], note: Note, *, movable: bool = True) -> Schema:
    """`schema`, a copy that may be changed, with its own keywords rewritten; not those below it.

    resolve: what a schema that is only a $ref points to. movable: no $ref points into it.
    """
    _bounds(schema)
    _format(schema, note)
    _counts(schema, note)
    _negation(schema, note)
    _property_names(schema, note)
    _unique(schema, note)
    _one_of(schema, resolve, note)
    if movable:
        return _dependencies(_conditions(schema, note), note)
    for key in ("if", "dependentRequired", "dependencies"):
        if key in schema:
            note(key, "references point into the schema around it")
    return schema


def _bounds(schema: Schema) -> None:
    """Draft 4's booleans; and integers that are no doubles, with which llguidance counts: the next one within. It has
    no ends of numbers that are further away.
    """
    kinds = schema.get("type")
    whole = kinds == "integer" or (isinstance(kinds, list) and "integer" in kinds and "number" not in kinds)
    for key, other, inwards in (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1)):
        if isinstance(schema.get(other), bool):
            exclusive = schema.pop(other)
            if exclusive and key in schema:
                schema[other] = schema.pop(key)
        for name, step in ((key, 0), (other, inwards)):
            value = schema.get(name, 0)
            if whole and abs(value) >= _EXACT:
                del schema[name]
                bound = int(value) + step
                schema[key] = _within(bound, inwards)
                if inwards * bound >= _LARGEST:  # which nothing is that can be written
                    schema |= _NO_NUMBER
                    return
            elif inwards * value < -_LARGEST_NUMBER:
                del schema[name]
                schema[key] = -inwards * _LARGEST_NUMBER
    if whole:  # it also fails for what has 19 digits and no other end
        if schema.get("minimum", 0) >= 10**18:
            schema.setdefault("maximum", _LARGEST)
        if schema.get("maximum", 0) <= -(10**18):
            schema.setdefault("minimum", 1024 - _LARGEST)


def _within(bound: int, inwards: int) -> int:
    """A double. What llguidance writes has 64 bits; it fails for the least of these."""
    if abs(bound) >= _LARGEST - 1:
        return inwards * _LARGEST if inwards * bound > 0 else _LARGEST if bound > 0 else 1024 - _LARGEST
    near = float(bound)
    return int(near) if inwards * (int(near) - bound) >= 0 else int(math.nextafter(near, inwards * math.inf))


def _format(schema: Schema, note: Note) -> None:
    known = schema.get("format")
    if isinstance(known, str) and known not in FORMATS and "pattern" in schema:
        del schema["format"]  # which the generator has spelled out
    elif isinstance(known, str) and known not in FORMATS:
        note("format", f"{known[:40]!r} is not checked")
        del schema["format"]


def _counts(schema: Schema, note: Note) -> None:
    """Numbers of properties: llguidance counts where all that are named are required, and tells none from some."""
    optional = set(schema.get("properties") or ()) - set(schema.get("required") or ())
    few = schema.get("maxProperties") in (None, 0) and schema.get("minProperties") in (None, 0, 1)
    if optional and not few:
        for key in ("minProperties", "maxProperties"):
            if schema.pop(key, None) is not None:
                note(key, "some of the properties are optional")


def _negation(schema: Schema, note: Note) -> None:
    if "not" not in schema:
        return
    negated = schema["not"]
    if negated is True or negated == {}:
        for key in set(schema) - set(_KEPT_ABOVE):
            del schema[key]
        schema |= {"type": "integer", **_NO_NUMBER}
        return
    if isinstance(negated, dict):
        keys = set(negated)
        values = [negated["const"]] if keys == {"const"} else negated.get("enum") if keys == {"enum"} else None
        if isinstance(values, list) and isinstance(schema.get("enum"), list):
            forbidden = {_text(value) for value in values}
            schema["enum"] = [value for value in schema["enum"] if _text(value) not in forbidden]
            del schema["not"]
            return
        names = negated.get("required")
        if keys == {"required"} and isinstance(names, list) and len(names) == 1 and schema.get("type") == "object":
            schema["properties"] = {**(schema.get("properties") or {}), names[0]: False}
            del schema["not"]
            return
    if schema.pop("not") is not False:
        note("not", "")


def _property_names(schema: Schema, note: Note) -> None:
    names = schema.pop("propertyNames", None)
    if names is None or names is True:
        return
    if isinstance(names, dict) and not ({"properties", "patternProperties"} & set(schema)):
        value = schema.get("additionalProperties", True)
        keys = set(names) - {"type", "title", "description", "$comment"}
        if not keys:
            return
        if keys == {"enum"} and isinstance(names["enum"], list):
            schema["properties"] = {name: value for name in names["enum"] if isinstance(name, str)}
        elif keys == {"const"}:
            schema["properties"] = {name: value for name in [names["const"]] if isinstance(name, str)}
        elif keys == {"pattern"}:
            schema["patternProperties"] = {names["pattern"]: value}
        elif keys <= {"minLength", "maxLength"}:
            times = f"{names.get('minLength', 0)},{names.get('maxLength', '')}"
            schema["patternProperties"] = {f"^(?s:.){{{times}}}$": value}
        else:
            note("propertyNames", "")
            return
        schema["additionalProperties"] = False
        schema.setdefault("type", "object")
        return
    note("propertyNames", "")


def _unique(schema: Schema, note: Note) -> None:
    if schema.pop("uniqueItems", False) is True and schema.get("maxItems", 2) > 1:
        note("uniqueItems", "")


def _one_of(schema: Schema, resolve: Callable[[Any], Any], note: Note) -> None:
    parts = schema.get("oneOf")
    if isinstance(parts, list):
        resolved = [resolve(part) for part in parts[:_MOST_ALTERNATIVES]]
        if len(parts) > _MOST_ALTERNATIVES or not all(_disjoint(a, b) for a, b in combinations(resolved, 2)):
            note("oneOf", "more than one of its alternatives may fit, as with anyOf")


def _disjoint(a: Any, b: Any) -> bool:
    """Whether it is plain that no value fits both."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        return False
    kinds, others = _kinds(a), _kinds(b)
    if kinds is not None and others is not None and not kinds & others:
        return True
    mine, its = _values(a), _values(b)
    if mine is not None and its is not None:
        return not set(mine) & set(its)
    shared = set(a.get("required") or ()) & set(b.get("required") or ())
    return any(_disjoint(*((one.get("properties") or {}).get(name) for one in (a, b))) for name in shared)


def _kinds(schema: Schema) -> frozenset[str] | None:
    kind = schema.get("type")
    if kind is None and ("const" in schema or "enum" in schema):
        values = [schema["const"]] if "const" in schema else schema["enum"] or []
        return frozenset(_kind_of(value) for value in values)
    kinds = [kind] if isinstance(kind, str) else kind
    return frozenset("number" if one == "integer" else one for one in kinds) if isinstance(kinds, list) else None


def _kind_of(value: Any) -> str:
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _values(schema: Any) -> dict[str, Any] | None:
    """All that fit, by their text, where these are few and told."""
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return {_text(schema["const"]): schema["const"]}
    if isinstance(schema.get("enum"), list) and len(schema["enum"]) <= _MOST_VALUES:
        return {_text(value): value for value in schema["enum"]}
    return {"false": False, "true": True} if schema.get("type") == "boolean" else None


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _conditions(schema: Schema, note: Note) -> Schema:
    """if, then, else, also as parts of allOf, where one required property with few values decides."""
    parts = schema.get("allOf") if isinstance(schema.get("allOf"), list) else []
    found = [
        part for part in parts or () if isinstance(part, dict) and "if" in part and set(part) <= {"if", "then", "else"}
    ]
    rest = [part for part in parts or () if part not in found]
    if "if" in schema:
        found.append({key: schema[key] for key in ("if", "then", "else") if key in schema})
    base = {key: value for key, value in schema.items() if key not in ("if", "then", "else", "allOf")}
    if rest:
        base["allOf"] = rest
    if not found:
        return base if "then" in schema or "else" in schema else schema
    branches = _branches(base, found)
    if branches is None:
        note("if", "it does not depend on one required property of a few values")
        return base
    return _alternatives(base, branches, "if", note)


def _branches(base: Schema, conditions: list[Schema]) -> list[Schema] | None:
    tests = [_test(one["if"]) for one in conditions]
    names = {test[0] for test in tests if test is not None}
    if None in tests or len(names) != 1 or not isinstance(base.get("properties"), dict):
        return None
    (name,) = names
    values = _values(base["properties"].get(name))
    if values is None or name not in (base.get("required") or ()):
        return None
    groups: dict[tuple[bool, ...], list[Any]] = {}
    for text, value in values.items():
        groups.setdefault(tuple(text in test[1] for test in tests if test is not None), []).append(value)
    if len(groups) * len(conditions) > _MOST_MERGED:
        return None
    branches = []
    for holds, group in groups.items():
        branch: Schema | None = {**base, "properties": {**base["properties"], name: {"enum": group}}}
        for held, condition in zip(holds, conditions, strict=True):
            extra = condition.get("then" if held else "else", True)
            if extra is False or branch is None:
                branch = None
            elif extra is not True:
                if not isinstance(extra, dict) or not set(extra) <= _PLAIN:
                    return None
                branch = _merged(branch, extra)
        if branch is not None:
            branches.append(branch)
    return branches


def _test(condition: Any) -> tuple[str, dict[str, Any]] | None:
    """(the property, its values by their texts) for which an `if` holds."""
    if not isinstance(condition, dict) or not set(condition) <= _PLAIN:
        return None
    properties = condition.get("properties")
    if not isinstance(properties, dict) or len(properties) != 1 or condition.get("type", "object") != "object":
        return None
    ((name, value),) = properties.items()
    if (
        not isinstance(value, dict)
        or not set(value) <= {"const", "enum", "type"}
        or condition.get("required", [name]) != [name]
    ):
        return None
    values = _values(value)
    return None if values is None else (name, values)


def _merged(base: Schema, extra: Schema) -> Schema:
    """Both at once, in the order of the first. `extra` has names and what they are only."""
    properties = dict(base.get("properties") or {})
    for name, value in (extra.get("properties") or {}).items():
        known = properties.get(name, True)
        properties[name] = value if known in (True, {}) else known if value in (True, {}) else _both(known, value)
    required = [*dict.fromkeys([*(base.get("required") or ()), *(extra.get("required") or ())])]
    return {**base, "properties": properties, "required": required}


def _both(one: Any, other: Any) -> Any:
    return False if one is False or other is False else {"allOf": [one, other]}


def _dependencies(schema: Schema, note: Note) -> Schema:
    """Of names on names: each is absent, or all that it needs are there."""
    needs: dict[str, list[str]] = {}
    for key in ("dependentRequired", "dependencies"):
        for name, wanted in (schema.pop(key, None) or {}).items():
            if isinstance(wanted, list):
                needs[name] = needs.get(name, []) + wanted
            else:
                note(f"{key}.{name}", "")
    needs = {name: wanted for name, wanted in needs.items() if wanted}
    if not needs:
        return schema
    if len(needs) > _MOST_CHOICES:
        note("dependentRequired", f"more than {_MOST_CHOICES} properties have dependencies")
        return schema
    branches = [
        branch for chosen in product((True, False), repeat=len(needs)) for branch in _chosen(schema, needs, chosen)
    ]
    return _alternatives(schema, branches, "dependentRequired", note)


def _chosen(schema: Schema, needs: dict[str, list[str]], present: tuple[bool, ...]) -> Iterator[Schema]:
    """With these of the properties present, and the others absent."""
    properties = dict(schema.get("properties") or {})
    required = list(schema.get("required") or ())
    for (name, wanted), there in zip(needs.items(), present, strict=True):
        if there:
            required += [name, *wanted]
        elif name in required:
            return
        else:
            properties[name] = False
    if not any(properties.get(name, True) is False for name in required):
        yield {"type": "object", **schema, "properties": properties, "required": [*dict.fromkeys(required)]}


def _alternatives(schema: Schema, branches: list[Schema], keyword: str, note: Note) -> Schema:
    """One of the branches, with what is not the business of any of them."""
    if sum(len(json.dumps(one, default=str)) for one in branches) > _LARGEST_CHOICE:
        note(keyword, "written out it would be too large")
        return schema
    above = {key: schema[key] for key in _KEPT_ABOVE if key in schema}
    return {**above, "anyOf": [{key: v for key, v in one.items() if key not in _KEPT_ABOVE} for one in branches]}
