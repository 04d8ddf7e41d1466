"""What the user types: with line editing and history at a terminal, plainly from a pipe."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from powerinfer_cli.commands.shared.terminal import Style, Terminal
from powerinfer_cli.errors import PowerInferError

__all__ = ["LineReader"]

LONGEST_LINE = 1 << 24  # bytes; more than any context holds


class LineReader:
    """Reads what the user says, one message at a time; None at the end of input.

    A line ending in a backslash goes on in the next; one ending in "/" is taken without that. With `multiline` it is
    the other way round: lines go on until one ends in a backslash or "/". What `is_command` is always one line.
    """

    def __init__(
        self,
        terminal: Terminal,
        *,
        multiline: bool,
        simple: bool,
        is_command: Callable[[str], bool] = lambda line: False,
    ) -> None:
        self._terminal = terminal
        self._multiline = multiline
        self._is_command = is_command
        self.at_terminal = sys.stdin.isatty()
        editing = self.at_terminal and terminal.shows_text and not simple
        self._read_line = _editor(terminal) if editing else self._read_plain

    def read(self, prompt: str = "> ") -> str | None:
        """One message. Raises KeyboardInterrupt where Ctrl-C ends the typing."""
        lines: list[str] = []
        while True:
            line = self._read_line("  " if lines else prompt)
            if line is None:
                return "\n".join(lines) if lines else None
            if self.at_terminal:
                self._terminal.line_was_read()
            if not lines and self._is_command(line):
                return line
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
            self._terminal.cue(prompt)
        try:
            raw = sys.stdin.buffer.readline(LONGEST_LINE)
        except OSError as error:
            raise PowerInferError(f"cannot read what is typed (stdin): {error.strerror}") from error
        finally:
            self._terminal.style(Style.PLAIN)
        if len(raw) == LONGEST_LINE:
            raise PowerInferError(f"stdin has a line of more than {LONGEST_LINE >> 20} MiB: is it text?")
        return raw.decode("utf-8", "replace").rstrip("\r\n") if raw else None


def _editor(terminal: Terminal) -> Callable[[str], str | None]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.styles import Style as EditorStyle

    path = _history_file()
    history: History = InMemoryHistory() if path is None else FileHistory(str(path))
    style = EditorStyle.from_dict({"": "bold ansigreen"}) if terminal.color else None
    session: PromptSession[str] = PromptSession(history=history, style=style)

    def read(prompt: str) -> str | None:
        try:
            terminal.go_to_row_start()
            return session.prompt([("noinherit", _last_row(terminal.line)), ("", prompt)])
        except EOFError:
            return None
        finally:
            terminal.line_was_read()

    return read


def _last_row(line: str) -> str:
    """What a terminal shows of an unfinished line in its last row, which the editor writes anew and goes on behind."""
    from prompt_toolkit.utils import get_cwidth

    columns = shutil.get_terminal_size().columns
    row, width = "", 0
    for character in line:
        wide = get_cwidth(character)
        if width + wide > columns:
            row, width = "", 0
        row, width = row + character, width + wide
    return row


def _history_file() -> Path | None:
    """Where typed lines are remembered: the user's state directory; None where that cannot be written."""
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        path = state / "powerinfer" / "history"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return None
    return path if path.is_file() and os.access(path, os.R_OK | os.W_OK) else None
