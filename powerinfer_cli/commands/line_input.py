"""What the user types: with line editing and history at a terminal, plainly from a pipe."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from powerinfer_cli.commands.terminal import Style, Terminal

__all__ = ["LineReader"]


class LineReader:
    """Reads what the user says, one message at a time; None at the end of input.

    A line ending in a backslash goes on in the next; one ending in "/" is taken without that. With `multiline` it is
    the other way round: lines go on until one ends in a backslash or "/".
    """

    def __init__(self, terminal: Terminal, *, multiline: bool, simple: bool) -> None:
        self._terminal = terminal
        self._multiline = multiline
        self.at_terminal = sys.stdin.isatty()
        editing = self.at_terminal and sys.stdout.isatty() and not simple
        self._read_line: Callable[[str], str | None] = _editor() if editing else self._read_plain

    def read(self, prompt: str = "> ") -> str | None:
        """One message. Raises KeyboardInterrupt where Ctrl-C ends the typing."""
        lines: list[str] = []
        while True:
            line = self._read_line("  " if lines else prompt)
            if line is None:
                return "\n".join(lines) if lines else None
            self._terminal.line_was_read()
            if line.startswith("/") and not lines:
                return line  # a command
            lines.append(line[:-1] if line.endswith(("\\", "/")) else line)
            if not self._goes_on(line):
                return "\n".join(lines)

    def _goes_on(self, line: str) -> bool:
        if line.endswith("/"):
            return False
        return line.endswith("\\") != self._multiline

    def _read_plain(self, prompt: str) -> str | None:
        if self.at_terminal:
            self._terminal.style(Style.USER)
            self._terminal.text(prompt)
        try:
            raw = sys.stdin.buffer.readline()
        finally:
            self._terminal.style(Style.PLAIN)
        return raw.decode("utf-8", "replace").rstrip("\r\n") if raw else None


def _editor() -> Callable[[str], str | None]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    history: History = InMemoryHistory()
    path = _history_file()
    if path is not None:
        history = FileHistory(str(path))
    session: PromptSession[str] = PromptSession(history=history)

    def read(prompt: str) -> str | None:
        try:
            return session.prompt(prompt)
        except EOFError:
            return None

    return read


def _history_file() -> Path | None:
    """Where typed lines are remembered: the user's state directory; None where that cannot be written."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = state / "powerinfer" / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return None
    return path
