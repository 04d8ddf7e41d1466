"""Standard streams: what they are written in, what a console makes of colours, and how one sees that nobody reads.

Windows alone needs to be told: a pipe there has the code page of the country, a console takes no sequences before it is
asked to, and a pipe without a reader is an invalid argument. (Not run there yet.)
"""

import errno
import os
import sys
from typing import TextIO

from powerinfer_cli.system import windows
from powerinfer_cli.system.which import WINDOWS

__all__ = ["reader_gone", "shows_colours", "unix_lines", "use_utf8"]


def use_utf8() -> None:
    """Standard streams are UTF-8, whatever is behind them, unless PYTHONIOENCODING says otherwise."""
    if not WINDOWS or os.environ.get("PYTHONIOENCODING"):
        return
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8")


def shows_colours(stream: TextIO) -> bool:
    """Whether a terminal is behind it that knows ANSI's sequences."""
    return stream.isatty() and (not WINDOWS or windows.take_sequences(stream.fileno()))


def reader_gone(error: OSError) -> bool:
    """Whether it says that nobody reads a pipe any more. error: of writing to a standard stream."""
    if isinstance(error, BrokenPipeError):
        return True
    return WINDOWS and error.errno == errno.EINVAL and error.filename is None


def unix_lines(content: bytes) -> bytes:
    """Text from a file or a pipe with its lines ended as here; Windows' programs end them by two characters."""
    return content.replace(b"\r\n", b"\n") if WINDOWS else content
