"""Texts that a command gets as a file, or by standard input."""

import sys
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.system.consoles import unix_lines

__all__ = ["STDIN", "read_stdin", "read_text"]

STDIN = Path("-")

LARGEST = 1 << 26  # bytes


def read_text(path: Path) -> str:
    """A file's text without its last newline, as llama.cpp reads it; bytes that are not UTF-8 stay what they are.
    "-" is standard input.

    Raises:
        PowerInferError: it cannot be read, or is larger than any prompt.
    """
    if path == STDIN:
        return read_stdin()
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise PowerInferError(f"{path}: cannot read the text: {error.strerror}") from error
    return _text(content, str(path))


def read_stdin() -> str:
    """All of standard input, as a file's text. Raises PowerInferError."""
    try:
        content = sys.stdin.buffer.read(LARGEST + 1)
    except OSError as error:
        raise PowerInferError(f"cannot read standard input: {error.strerror}") from error
    return _text(content, "standard input")


def _text(content: bytes, origin: str) -> str:
    if len(content) > LARGEST:
        raise PowerInferError(f"{origin}: more than {LARGEST >> 20} MiB, which no context holds")
    return unix_lines(content).decode("utf-8", "surrogateescape").removesuffix("\n")
