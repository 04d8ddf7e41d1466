"""Where the tables of `powerinfer solve` are written."""

from typing import IO

from rich.console import Console

__all__ = ["make_console"]

WIDTH = 110  # where there is no terminal


def make_console(file: IO[str] | None = None) -> Console:
    """On standard output, or in a file. Words are written as they are: names come from files, and are no markup."""
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console
