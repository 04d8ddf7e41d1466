"""Progress of long work: one bar for the whole on a terminal, and now and then a line elsewhere."""

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from powerinfer_cli.commands.shared.bars import BETWEEN, make_bar, redraws, shown_time

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from powerinfer_cli.runtime import LoadEvents

__all__ = ["Working"]

TICK = 0.5  # seconds between two looks at the clock


class Working:
    """While entered, shows what the solver tells of its work on standard error."""

    def __init__(self, between: float = BETWEEN) -> None:
        from solver.schedule import Schedule

        self.schedule = Schedule()
        self._between = between
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "LoadEvents":
        from powerinfer_cli.runtime import LoadEvents

        work = self._frames if redraws() else self._lines
        self._thread = threading.Thread(target=work, name="progress", daemon=True)
        self._thread.start()
        return LoadEvents(self._note, self._progress)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
            self._bar = None

    def _note(self, line: str) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.console.print(line, markup=False)
            else:
                print(line, file=sys.stderr, flush=True)

    def _progress(self, what: str, done: int, total: int) -> None:
        with self._lock:
            self.schedule.progress(what, done, total)
            if self._bar is None and redraws() and not self._ended.is_set():
                self._bar = _make_bar()
                self._bar.start()
                self._task = self._bar.add_task("", total=1.0, left="")
            self._show()

    def _lines(self) -> None:
        """Where there is no terminal: what is being done, whether or not it tells of itself."""
        while not self._ended.wait(self._between):
            with self._lock:
                shown = self.schedule.shown()
                if shown.what:
                    share = "" if shown.left is None else f"{shown.share:.0%} of all, "
                    self._note(f"{share}{shown.what}{_left(shown.left)}")

    def _frames(self) -> None:
        while not self._ended.wait(TICK):
            with self._lock:
                self._show()

    def _show(self) -> None:
        if self._bar is None or self._task is None:
            return
        shown = self.schedule.shown()
        self._bar.update(self._task, completed=shown.share, description=shown.what, left=_left(shown.left).lstrip(", "))


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f", about {shown_time(seconds)} left"


def _make_bar() -> "Progress":
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    return make_bar(
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.description}", markup=False),
    )
