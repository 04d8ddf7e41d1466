"""Reads an answer that is one JSON object: {"response": text}, {"tool_call": call} or {"tool_calls": [call, ...]}."""

import re
from collections.abc import Callable

from powerinfer_cli.json_text import read_json

from .calls import CallReader, Progress
from .deltas import ContentDelta, Delta
from .tool_styles import ToolStyle

__all__ = ["GenericReader"]

_HEAD = 64
_OBJECT_HEAD = re.compile(r'\s*\{\s*"(response|tool_calls?)"\s*:\s*(?=[\["{])')
_STRING_PART = re.compile(r'(?:[^"\\]|\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt]))+')
_HALF_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}$")
_ESCAPE_PART = re.compile(r"(?:\\(?:u[0-9a-fA-F]{0,3})?)?")
_ONE = ToolStyle("generic-call", "")
_SEVERAL = ToolStyle("generic-calls", "", listed=True)


class GenericReader:
    """Content or calls of one answer. An answer of another form is content as it is."""

    def __init__(self, new_id: Callable[[int], str], known: frozenset[str]) -> None:
        self._new_id, self._known = new_id, known
        self._step: Callable[[str, list[Delta], bool], Progress] = self._head
        self._calls: CallReader | None = None

    def read(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        """Take what is clear. final: there is no more text."""
        return self._step(text, deltas, final)

    def _head(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        head = _OBJECT_HEAD.match(text[:_HEAD])
        if head is None:
            rest = text.lstrip()
            if (not rest or rest.startswith("{")) and len(text) < _HEAD and not final:
                return 0, False
            self._step = self._raw
            return 0, True
        if head[1] == "response":
            self._step = self._string if text[head.end()] == '"' else self._raw
            return (head.end() + 1 if self._step == self._string else 0), True
        style = _SEVERAL if text[head.end()] == "[" else _ONE
        self._calls = CallReader(style, self._new_id, self._known, in_call=True)
        self._step = self._inner
        return head.end(), True

    def _raw(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        if text:
            deltas.append(ContentDelta(text))
        return len(text), False

    def _string(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        """The inside of a JSON string, without its escapes."""
        part = _STRING_PART.match(text)
        if part is not None:
            end = part.end()
            half = _HALF_PAIR.search(part[0])
            if half is not None and not final and _is_part_of_escape(text[end:]):
                end = half.start()
            if end:
                deltas.append(ContentDelta(_unescaped(text[:end])))
            return end, end == part.end() and end < len(text)
        if text.startswith('"'):
            self._step = self._rest
            return 1, True
        if not text or (_is_part_of_escape(text) and not final):
            return 0, False
        deltas.append(ContentDelta(text[0]))  # a backslash that escapes nothing
        return 1, True

    def _inner(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        assert self._calls is not None
        taken, again = self._calls.read(text, deltas, final)
        if self._calls.is_behind_calls:
            self._step = self._rest
        return taken, again

    def _rest(self, text: str, deltas: list[Delta], final: bool) -> Progress:
        """Nothing of what follows the text is meant for anybody."""
        return len(text), False


def _is_part_of_escape(text: str) -> bool:
    return _ESCAPE_PART.fullmatch(text) is not None


def _unescaped(text: str) -> str:
    try:
        read: str = read_json(f'"{text}"', strict=False)
    except ValueError:
        return text
    return read.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
