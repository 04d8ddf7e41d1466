"""Where a JSON value ends in a text that comes in pieces."""

import re

__all__ = ["JsonScanner"]

_STRING_PART = re.compile(r'[^"\\]+')
_STRUCTURE_PART = re.compile(r'[^"{}\[\],]+')
_OPENING, _CLOSING = "{[", "}]"


class JsonScanner:
    """Finds the end of one value; looks at brackets and strings only, so what is malformed may pass.

    The value begins at the first character given, which is no white space. `depth` 1: the value's opening bracket was
    before that.
    """

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = False
        self._escaped = False
        self._begun = depth > 0
        self.done = False

    def push(self, text: str, start: int = 0) -> int:
        """The place in `text` behind the value's last character, or behind all of `text` where it goes on."""
        at = start
        while at < len(text) and not self.done:
            at = self._string(text, at) if self._in_string else self._structure(text, at)
        return at

    def _string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        if part := _STRING_PART.match(text, at):
            return part.end()
        if text[at] == "\\":
            self._escaped = True
        else:
            self._in_string = False
            self.done = self._depth == 0
        return at + 1

    def _structure(self, text: str, at: int) -> int:
        letter = text[at]
        if letter == '"':
            if self._begun and self._depth == 0:
                self.done = True  # a number, or a word, ends before the next string
                return at
            self._in_string = self._begun = True
        elif letter in _OPENING:
            self._depth += 1
            self._begun = True
        elif letter in _CLOSING:
            return self._close(at)
        elif letter == "," and self._depth == 0:
            self.done = True
            return at
        elif part := _STRUCTURE_PART.match(text, at):
            self._begun = True
            return part.end()
        return at + 1

    def _close(self, at: int) -> int:
        if self._depth == 0:
            self.done = True  # the bracket around the value, a number or a word
            return at
        self._depth -= 1
        self.done = self._depth == 0
        return at + 1
