"""Reads calls of tools out of a text that is still growing, in the style of the model's family."""

import json
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from powerinfer_cli.json_text import read_json

from .deltas import ArgumentsDelta, CallStart, ContentDelta, Delta
from .json_scan import JsonScanner
from .markers import find_first, may_become
from .tool_styles import ToolStyle

__all__ = ["CallReader"]

Progress: TypeAlias = tuple[int, bool]
"""How many characters are done with, and whether to go on with the rest at once."""

_HEAD = 4096  # characters within which a call written in the usual order says its name
_LONGEST = 1 << 16  # of a call written in another order, which is read as a whole
_STRING = r'"(?:[^"\\]|\\.)*"'
_OBJECT_HEAD = re.compile(
    rf'\s*\{{(?:\s*"(?:type|id|tool_call_id)"\s*:\s*(?:{_STRING}|\d+)\s*,)*\s*"(?:name|tool_name)"\s*:\s*({_STRING})'
    r'\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\S)'
)
_NAMED_HEAD = 256


class CallReader:
    """Content and calls of one answer. `read` takes the text that is not done with yet."""

    def __init__(
        self, style: ToolStyle, new_id: Callable[[int], str], known: frozenset[str], *, in_call: bool = False
    ) -> None:
        """known: the tools' names; what calls another is content. in_call: the text begins behind an opener."""
        self._style, self._new_id, self._known = style, new_id, known
        self._step: Callable[[str, list[Delta], bool], Progress] = self._head if in_call else self._text
        self._index = -1
        self._at_start = not in_call
        self._opening = 0  # characters before the call that are content should it be none
        self._in_list = False
        self._scanner: JsonScanner | None = None
        self._scanned = 0

    @property
    def is_behind_calls(self) -> bool:
        """Whether a call, or a list of them, has just ended."""
        return self._step == self._between

    def read(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        """Take what is clear. final: there is no more text."""
        return self._step(text, deltas, final)

    def _text(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        """Content, until a call opens. White space waits, since before a call it is dropped."""
        if self._at_start and self._style.bare:
            rest = text.lstrip()
            if rest.startswith("{"):
                return self._enter_call(0, len(text) - len(rest))
            if not rest and not final:
                return 0, False
        found, marker = find_first(text, (self._style.opener,) if self._style.opener else ())
        if marker is None and final:
            found = len(text)
        content = text[:found] if marker is None and final else text[:found].rstrip()
        if content:
            deltas.append(ContentDelta(content))
            self._at_start = False
        if marker is None:
            return len(content), False
        return self._enter_call(len(content), found - len(content) + len(marker))

    def _enter_call(self, done: int, opening: int) -> Progress:
        self._step, self._opening = self._head, opening
        self._scanner, self._scanned = None, 0
        return done, True

    def _reject(self, text: str, deltas: list[Delta]) -> Progress:
        """It is no call: what was to open one is content."""
        self._step, self._at_start, self._in_list = self._text, False, False
        opening = text[: max(self._opening, 1)]
        if opening:
            deltas.append(ContentDelta(opening))
        return len(opening), True

    def _head(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        """The beginning of a call, up to its arguments."""
        start = self._opening
        if self._style.named:
            return self._named_head(text, start, deltas, final)
        if self._style.listed and not self._in_list:
            rest = text[start:].lstrip()
            if not rest and not final:
                return 0, False
            start = len(text) - len(rest) + rest.startswith("[")
        head = _OBJECT_HEAD.match(text[: start + _HEAD], start)
        if head is not None:
            return self._begin(text, read_json(head[1], strict=False), head.end(), deltas)
        return self._whole(text, start, deltas, final)

    def _named_head(self, text: str, start: int, deltas: list[Delta], final: bool) -> Progress:
        at = text.find(self._style.name_end, start, start + _NAMED_HEAD)
        if at < 0:
            waits = len(text) < start + _NAMED_HEAD and not final
            return (0, False) if waits else self._reject(text, deltas)
        value = at + len(self._style.name_end)
        value += len(text[value:]) - len(text[value:].lstrip())
        if value == len(text) and not final:
            return 0, False
        return self._begin(text, text[start:at].partition("[CALL_ID]")[0].strip(), value, deltas)

    def _begin(self, text: str, name: str, value: int, deltas: list[Delta]) -> Progress:
        """The call is one, and its arguments are next."""
        if name not in self._known:
            return self._reject(text, deltas)
        self._start_call(name, deltas)
        self._scanner, self._scanned = JsonScanner(), 0
        self._step = self._object if text.startswith("{", value) else self._value
        return value, True

    def _start_call(self, name: str, deltas: list[Delta]) -> None:
        self._in_list = self._style.listed
        self._index += 1
        deltas.append(CallStart(self._index, self._new_id(self._style.id_length), name))

    def _whole(self, text: str, start: int, deltas: list[Delta], final: bool) -> Progress:
        """A call whose keys stand in another order is read when all of it is there."""
        rest = text[start:].lstrip()
        if not rest and not final:
            return 0, False
        if not rest.startswith("{"):
            return self._reject(text, deltas)
        if self._scanner is None:
            self._scanner, self._scanned = JsonScanner(), len(text) - len(rest)
        self._scanned = self._scanner.push(text[: start + _LONGEST], self._scanned)
        if not self._scanner.done:
            waits = len(text) < start + _LONGEST and not final
            return (0, False) if waits else self._reject(text, deltas)
        name, arguments = _call_of(text[start : self._scanned])
        if name not in self._known:
            return self._reject(text, deltas)
        self._start_call(name, deltas)
        deltas.append(ArgumentsDelta(self._index, arguments))
        self._step = self._after
        return self._scanned, True

    def _object(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        """Arguments that are an object go on as they come."""
        assert self._scanner is not None
        end = self._scanner.push(text)
        if end:
            deltas.append(ArgumentsDelta(self._index, text[:end]))
        return self._end_arguments(end)

    def _value(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        """Arguments that are anything else wait until they are whole."""
        assert self._scanner is not None
        self._scanned = self._scanner.push(text, self._scanned)
        if not self._scanner.done and not final:
            return 0, False
        value = _arguments_text(text[: self._scanned].strip())
        if value:
            deltas.append(ArgumentsDelta(self._index, value))
        self._scanner.done = True
        return self._end_arguments(self._scanned)

    def _end_arguments(self, taken: int) -> Progress:
        if self._scanner is None or not self._scanner.done:
            return taken, False
        self._scanner = None
        self._step = self._after if self._style.named else self._tail
        return taken, True

    def _tail(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        """What an object has behind its arguments; an id that the model wrote there is not used."""
        if self._scanner is None:
            rest = text.lstrip()
            if not rest:
                return len(text), False
            if rest[0] not in "},":
                self._step = self._after  # the bracket is missing
                return 0, True
            self._scanner = JsonScanner(depth=1)
        end = self._scanner.push(text)
        if self._scanner.done:
            self._step = self._after
        return end, self._scanner.done

    def _after(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        """Behind a call: the next one of a list, the list's end, the closing text."""
        rest = text.lstrip()
        space = len(text) - len(rest)
        if not rest:
            return space, False
        if self._in_list and rest[0] == ",":
            return self._enter_call(space + 1, 0)
        if self._in_list and rest[0] == "]":
            self._in_list = False
            return space + 1, True
        if self._style.closer and may_become(rest, self._style.closer) and not final:
            return space, False
        self._in_list = False
        self._step = self._between
        return space + (len(self._style.closer) if rest.startswith(self._style.closer) else 0), True

    def _between(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        """Behind the closing text: another call, or more content."""
        rest = text.lstrip(" \t\r\n;" if self._style.bare else None)
        space = len(text) - len(rest)
        if not rest:
            return (space if final else 0), False
        if self._style.bare and rest.startswith("{"):
            return self._enter_call(space, 0)
        self._step = self._text
        return (0 if self._style.bare and ";" in text[:space] else space), True


def _arguments_text(value: str) -> str:
    """JSON arguments that were written as a JSON string, or not at all."""
    try:
        read = read_json(value, strict=False)
    except (ValueError, RecursionError):
        return value
    if read is None:
        return "{}"
    return read if isinstance(read, str) else value


def _call_of(text: str) -> tuple[str, str]:
    """(name, arguments as JSON text) of a call in any order of keys; no name where it is none."""
    try:
        call: Any = read_json(text, strict=False)
    except (ValueError, RecursionError):
        return "", ""
    inner = call.get("function") if isinstance(call, dict) else None
    if isinstance(inner, dict):
        call = inner
    name = call.get("name", call.get("tool_name", inner))
    arguments = call.get("arguments", call.get("parameters"))
    if not isinstance(name, str):
        return "", ""
    if isinstance(arguments, str):
        return name, arguments
    return name, json.dumps({} if arguments is None else arguments, ensure_ascii=False)
