"""What is wrong with a request's fields, in a line of our own: a library's words change, and speak of Python."""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

__all__ = ["validation_message"]

# What pydantic calls the types of a field that has several: "str", "list[int]", "TextPart", "function-after[...]".
_TYPE = re.compile(
    r"str|int|float|bool|none|dict|list|any|[A-Z]\w*|.*\[.*\]|(constrained|function|lax|json)-.*", re.DOTALL
)
_WHOLE, _NUMBER, _SWITCH, _TEXT, _OBJECT = "a whole number", "a number", "true or false", "a text", "an object"
# Kind of pydantic's error -> what is wanted instead.
_WANTED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), _WHOLE),
        **dict.fromkeys(("float_type", "float_parsing"), _NUMBER),
        **dict.fromkeys(("bool_type", "bool_parsing"), _SWITCH),
        **dict.fromkeys(("string_type", "string_unicode"), _TEXT),
        **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "mapping_type"), _OBJECT),
        "list_type": "an array",
        "finite_number": "a finite number",
        "none_required": "null",
    }
)
_BOUNDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = MappingProxyType(
    {
        "greater_than_equal": lambda c: f"{c['ge']} or more",
        "less_than_equal": lambda c: f"{c['le']} or less",
        "greater_than": lambda c: f"more than {c['gt']}",
        "less_than": lambda c: f"less than {c['lt']}",
        "literal_error": lambda c: str(c["expected"]),
        "too_long": lambda c: f"an array of at most {c['max_length']}" if c["max_length"] else "empty",
        "too_short": lambda c: f"an array of at least {c['min_length']}",
        "string_too_long": lambda c: f"a text of at most {c['max_length']} characters",
        "string_too_short": lambda c: f"a text of at least {c['min_length']} characters",
    }
)


def validation_message(errors: Sequence[Any]) -> str:
    """One line of pydantic's list: which field, by its path, and what it must be."""
    first = errors[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return f"the body is not JSON: {reason} at character {first['loc'][-1]}"
    top = _field(first["loc"])[:1]
    # A field of several types has an error for each of them; the one that came furthest knows best.
    where = max((_field(error["loc"]) for error in errors if _field(error["loc"])[:1] == top), key=len)
    same = [error for error in errors if _field(error["loc"]) == where]
    others = len({_field(error["loc"])[:1] for error in errors} - {top})
    name = f'"{_path(where)}"' if where else "the body"
    return f"{name} {_wrong(same)}" + (f" (and {others} more)" if others else "")


def _field(loc: Sequence[Any]) -> tuple[str | int, ...]:
    """Where it is, without the part of the request that pydantic begins with, and its names of types."""
    return tuple(part for part in loc[1:] if isinstance(part, int) or not _TYPE.fullmatch(part))


def _path(parts: Sequence[str | int]) -> str:
    """As in stop[0] and response_format.schema."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def _wrong(errors: Sequence[Any]) -> str:
    wanted = list(dict.fromkeys(text for error in errors if (text := _wanted(error))))
    if wanted:
        return f"must be {' or '.join(wanted)}"
    first = errors[0]
    if first["type"] == "missing":
        return "is missing"
    # Of our own validators: they say it as it is to be said.
    said = first.get("ctx", {}).get("error")
    return f"is wrong: {said}" if said else "is not what it must be"


def _wanted(error: Any) -> str:
    kind = error["type"]
    return _BOUNDS[kind](error["ctx"]) if kind in _BOUNDS else _WANTED.get(kind, "")
