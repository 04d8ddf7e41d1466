"""Where things go: the text to stdout as it is made, everything else to stderr."""

import sys
from enum import StrEnum

__all__ = ["Style", "Terminal"]


class Style(StrEnum):
    """ANSI sequences, in llama.cpp's colours."""

    PROMPT = "\x1b[33m"
    USER = "\x1b[1m\x1b[32m"
    PLAIN = "\x1b[0m"


class Terminal:
    """stdout for text, stderr for notes. `quiet` drops notes; `color` marks prompts and the user's words."""

    def __init__(self, *, color: bool, quiet: bool) -> None:
        self.color = color
        self.quiet = quiet
        self._at_line_start = True
        for stream in (sys.stdout, sys.stderr):
            # A terminal or a file in another encoding gets "?" for what it cannot show, not an exception.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")

    def text(self, piece: str) -> None:
        """Write generated (or echoed) text at once."""
        if piece:
            sys.stdout.write(piece)
            sys.stdout.flush()
            self._at_line_start = piece.endswith("\n")

    def style(self, style: Style) -> None:
        if self.color:
            sys.stdout.write(style)
            sys.stdout.flush()

    def end_line(self) -> None:
        """Finish the line of text that has begun, if one has."""
        if not self._at_line_start:
            self.text("\n")

    def line_was_read(self) -> None:
        """The user's Return has moved a terminal to a new line."""
        self._at_line_start = True

    def note(self, line: str = "") -> None:
        """A line for the person at the terminal; not part of the text."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)
