"""What is wrong with a value, in words of our own, for flags and requests: a library's change, and speak of Python."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

__all__ = ["wrong"]

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


def wrong(errors: Sequence[Any]) -> str:
    """Pydantic's errors of one value, one for each of its types, as `must be a whole number` and the like."""
    wanted = list(dict.fromkeys(text for error in errors if (text := _wanted(error))))
    if wanted:
        return f"must be {' or '.join(wanted)}"
    first = errors[0]
    if first["type"] == "missing":
        return "is missing"
    # Of our own validators: they say it as it is to be said.
    said = first.get("ctx", {}).get("error")
    return f"is wrong: {str(said).rstrip('.')}" if said else "is not what it must be"


def _wanted(error: Any) -> str:
    kind = error["type"]
    return _BOUNDS[kind](error["ctx"]) if kind in _BOUNDS else _WANTED.get(kind, "")
