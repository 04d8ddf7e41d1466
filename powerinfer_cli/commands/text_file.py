"""Texts that a command gets as a file."""

from pathlib import Path

from powerinfer_cli.errors import PowerInferError

__all__ = ["read_text"]

LARGEST = 1 << 26  # bytes


def read_text(path: Path) -> str:
    """A file's text without its last newline, as llama.cpp reads it; bytes that are not UTF-8 stay what they are.

    Raises:
        PowerInferError: it cannot be read, or is larger than any prompt.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise PowerInferError(f"{path}: cannot read the text: {error.strerror}") from error
    if len(content) > LARGEST:
        raise PowerInferError(f"{path}: more than {LARGEST >> 20} MiB, which no context holds")
    return content.decode("utf-8", "surrogateescape").removesuffix("\n")
