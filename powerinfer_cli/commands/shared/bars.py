"""Bars on standard error, for what takes a while."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

__all__ = ["BETWEEN", "make_bar", "redraws", "shown_time", "stderr_console"]

BETWEEN = 15.0  # seconds between two lines where no bar can be drawn


def redraws() -> bool:
    """Whether standard error is a terminal that can draw a line anew; elsewhere plain lines are written."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def stderr_console() -> "Console":
    """For progress. Names of files and of tensors are written as they are: nothing in them is markup."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def make_bar(*columns: "ProgressColumn") -> "Progress":
    """It is gone once it is stopped."""
    from rich.progress import Progress

    # redirect_stdout: or what is written there while a bar is shown would go to standard error.
    return Progress(*columns, console=stderr_console(), transient=True, redirect_stdout=False)


def shown_time(seconds: float) -> str:
    """For people: 40 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
