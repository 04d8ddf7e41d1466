"""JSON between markers, in the midst of text: the grammar of tool calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from powerinfer_cli.sampling.grammar_error import GrammarError
from powerinfer_cli.sampling.json_schema import json_of_schema

__all__ = ["lark_of_tagged"]


def lark_of_tagged(
    begin: str,
    schema: Any,
    end: str,
    at_least: int,
    at_most: int | None,
    free_text: bool,
    control_names: Mapping[str, int],
) -> str:
    """A Lark grammar; `Grammars.tagged` says of what. control_names: control tokens by name, longest first."""
    if at_least < 0 or (at_most is not None and at_most < max(at_least, 1)):
        raise GrammarError(f"bad tool grammar: {at_least} to {at_most} calls")
    if free_text and not begin:
        raise GrammarError("bad tool grammar: free text needs a marker that ends it")
    opening, *rest = _parts(begin, control_names) or [""]
    lines = [
        f"call: opening {' '.join(rest)} json {' '.join(_parts(end, control_names))}",
        f"json: %json {json_of_schema(schema)}",
    ]
    repeat = f"{{{at_least},{'' if at_most is None else at_most}}}"
    if not free_text:
        lines += [f"start: {_spaced(at_least, at_most)}", f"opening: {opening or json.dumps('')}"]
    elif opening.startswith("<["):
        lines += [f"start: call{repeat} text", f"opening: text {opening}", "text: TEXT?", r"TEXT: /(?s:.)+/"]
    else:
        # Lazy: the text ends where the marker is first complete. The text behind the last call has none.
        lines += [
            f"start: call{repeat} last",
            f"opening[lazy]: ANY {opening}",
            r"ANY: /(?s:.)*/",
            "last: TEXT?",
            f"TEXT: /(?s:.)+/ & ~(ANY {opening} ANY)",
        ]
    return "\n".join(lines) + "\n"


def _spaced(at_least: int, at_most: int | None) -> str:
    more = "" if at_most == 1 else f"(SPACE? call){{{max(at_least - 1, 0)},{'' if at_most is None else at_most - 1}}}"
    return (f"call {more}" if at_least else f"(call {more})?") + ("" if at_most == 1 else "\nSPACE: /[ \\n]{1,2}/")


def _parts(text: str, control_names: Mapping[str, int]) -> list[str]:
    """`text` as Lark writes it: literals, and control tokens by their ids."""
    parts: list[str] = []
    while text:
        places = [(text.find(name), name) for name in control_names]
        at, name = min(((at, name) for at, name in places if at >= 0), key=lambda p: p[0], default=(len(text), ""))
        if at:
            parts.append(json.dumps(text[:at]))
        if name:
            parts.append(f"<[{control_names[name]}]>")
        text = text[at + len(name) :]
    return parts
