"""JSON that comes from outside, read as its standard has it."""

import json
import math
from typing import Any, NoReturn

__all__ = ["STRICTLY", "read_json"]


def read_json(text: str | bytes | bytearray, *, strict: bool = True) -> Any:
    """The value of a JSON text. `strict` False: strings may hold line breaks and the like as they are.

    Raises ValueError, also for NaN, Infinity and numbers beyond a double's range, which Python's json takes; and
    RecursionError where it is nested too deeply.
    """
    return json.loads(text, strict=strict, **STRICTLY)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:40]} is beyond what a number can be")
    return number


STRICTLY: dict[str, Any] = {"parse_constant": _no_number, "parse_float": _finite}
"""For whoever makes a decoder of its own."""
