"""What is wrong with a flag's value: what it must be, not what the library that found it says."""

from collections.abc import Collection
from typing import Any

__all__ = ["wrong_flag"]


def wrong_flag(error: Any, given: Collection[str], name: str = "") -> str:
    """Of a click error; "" where it is not about a value.

    given: the words of the command line, of which the flag's name is one. name: what was given instead of the flag.
    """
    found = getattr(error.__cause__, "errors", None)
    if found is None or getattr(error, "param", None) is None:
        return ""
    from powerinfer_cli.wrong_values import wrong

    errors = found()
    value = errors[0].get("input")
    got = f", got {value[:40]!r}" if isinstance(value, str) and errors[0]["type"] != "value_error" else ""
    flag = name or next((one for one in error.param.opts if one in given), error.param.opts[0])
    return f"{flag} {wrong(errors)}{got}"
