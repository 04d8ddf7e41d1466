"""Where things go: the text to stdout as it is made, everything else to stderr."""

import sys
from enum import StrEnum

__all__ = ["Style", "Terminal"]


class Style(StrEnum):
    """ANSI sequences, in llama.cpp's colours."""

    PROMPT = "\x1b[33m"
    USER = "\x1b[1m\x1b[32m"
    PLAIN = "\x1b[0m"


# Control characters but tab, line feed and carriage return, as pictures: a model's text must not steer a terminal.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n\r"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


class Terminal:
    """stdout for text, stderr for notes. `quiet` drops notes; `color` marks prompts and words."""

    def __init__(self, *, color: bool, quiet: bool) -> None:
        self.shows_text = sys.stdout.isatty()
        self.color = color
        self._quiet = quiet
        self.line = ""
        """The text so far of the line that is being written."""
        for stream in (sys.stdout, sys.stderr):
            # A terminal or a file in another encoding gets "?" for what it cannot show, not an exception.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")

    def text(self, piece: str) -> None:
        """Write generated (or echoed) text at once."""
        if piece:
            shown = piece.translate(_PICTURES) if self.shows_text else piece
            self._write(shown)
            self.line = (self.line + shown).rpartition("\n")[2]

    def style(self, style: Style) -> None:
        if self.color:
            self._write(style)

    def cue(self, prompt: str) -> None:
        """Say that the user has the word; not part of the text."""
        if self.shows_text:
            self._write(prompt)
            self.line += prompt
        else:
            self.tell(prompt, end="")

    def end_line(self) -> None:
        """Finish the line of text that has begun, if one has."""
        if self.line:
            self.text("\n")

    def go_to_row_start(self) -> None:
        """Where a line editor believes that it begins."""
        if self.line:
            self._write("\r")

    def line_was_read(self) -> None:
        """The user's Return has moved a terminal to a new line."""
        self.line = ""

    def quiet(self) -> None:
        """No notes from now on."""
        self._quiet = True

    def note(self, line: str = "") -> None:
        """A line for the person at the terminal, unless they want none."""
        if not self._quiet:
            self.tell(line)

    def tell(self, line: str, end: str = "\n") -> None:
        """The same for what they asked for, and for errors."""
        try:
            print(line, file=sys.stderr, end=end, flush=True)
        except OSError:
            self._quiet = True  # nobody reads the notes: no reason to end the text

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
