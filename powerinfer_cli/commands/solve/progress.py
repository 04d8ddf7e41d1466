"""Progress of long work: a bar with the time that is left on a terminal, and now and then a line elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from powerinfer_cli.runtime import LoadEvents

__all__ = ["Working"]

BETWEEN = 15.0  # seconds between two lines where there is no terminal
SHORT = 2.0  # seconds that nobody needs to be told of


class Working:
    """While entered, shows what the solver tells of its work on standard error."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""
        self._began = self._told = 0.0

    def __enter__(self) -> "LoadEvents":
        from powerinfer_cli.runtime import LoadEvents

        return LoadEvents(self._note, self._progress)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def _note(self, line: str) -> None:
        if self._bar:
            self._bar.console.print(line, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _progress(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._close()
            self._what, self._began, self._told = what, now, now
        if sys.stderr.isatty():
            self._show(what, done, total)
        elif done < total and now - self._told > BETWEEN:
            self._told = now
            self._note(self._line(what, done, total, now - self._began))
        if done >= total:
            self._close()

    @staticmethod
    def _line(what: str, done: int, total: int, passed: float) -> str:
        left = f", about {passed * (total - done) / done:.0f} s left" if done else ""
        return f"{what}: {done / max(1, total):.0%}{left}"

    def _show(self, what: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = _make_bar()
            self._bar.start()
            self._task = self._bar.add_task(what, total=total)
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total)

    def _close(self) -> None:
        """The bar goes; what took a while leaves a line."""
        if self._bar is not None:
            self._bar.stop()
            passed = time.monotonic() - self._began
            if passed > SHORT:
                print(f"{self._what}: {passed:.0f} s", file=sys.stderr, flush=True)
        self._bar = self._task = None
        self._what = ""


def _make_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False, soft_wrap=True),
        transient=True,
        redirect_stdout=False,  # or what is written there while a bar is shown would go to stderr
    )
