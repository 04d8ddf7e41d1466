"""What is wrong with a request's fields: one line with a field's path."""

import re
from collections.abc import Sequence
from typing import Any

from powerinfer_cli.wrong_values import wrong

__all__ = ["validation_message"]

# What pydantic calls the types of a field that has several: "str", "list[int]", "TextPart", "function-after[...]".
_TYPE = re.compile(
    r"str|int|float|bool|none|dict|list|any|[A-Z]\w*|.*\[.*\]|(constrained|function|lax|json)-.*", re.DOTALL
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
    return f"{name} {wrong(same)}" + (f" (and {others} more)" if others else "")


def _field(loc: Sequence[Any]) -> tuple[str | int, ...]:
    """Where it is, without the part of the request that pydantic begins with, and its names of types."""
    return tuple(part for part in loc[1:] if isinstance(part, int) or not _TYPE.fullmatch(part))


def _path(parts: Sequence[str | int]) -> str:
    """As in stop[0] and response_format.schema."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
