"""GGUFError, and how text that came from a file is shown in a message."""

from pathlib import Path

from powerinfer_cli.errors import PowerInferError

__all__ = ["GGUFError", "shown", "shown_name", "shown_path"]

SHOWN_CHARACTERS = 64


class GGUFError(PowerInferError):
    """A GGUF file that cannot be read or written; the message names the file and the place in it."""


def shown(text: str) -> str:
    """`text` quoted for a message: bounded in length, nothing in it can move a terminal's cursor."""
    if len(text) <= SHOWN_CHARACTERS:
        return repr(text)
    return f"{text[:SHOWN_CHARACTERS]!r}..."


def shown_path(path: Path) -> str:
    """`path` as the user typed it, unless it holds characters that a terminal would act upon."""
    return shown_name(str(path))


def shown_name(name: str) -> str:
    """`name` as it is, unless it holds characters that a terminal would act upon."""
    return name if name.isprintable() else repr(name)[1:-1]
