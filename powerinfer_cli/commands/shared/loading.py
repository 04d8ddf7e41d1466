"""How far the loading of a model is: a bar on a terminal, and a plain line elsewhere where kernels are compiled."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from powerinfer_cli.commands.shared.bars import make_bar, redraws

if TYPE_CHECKING:  # these take a while to import, the second one loads torch
    from rich.progress import Progress, TaskID

    from powerinfer_cli.runtime import LoadEvents

__all__ = ["Loading"]

Note = Callable[[str], None]
Watch = Callable[[str, int, int], None]  # as `LoadEvents.progress`

PATIENCE = 0.5  # seconds that something may take without a bar
COMPILING = "compiling"  # what begins so takes seconds, and is worth a word anywhere


class Loading:
    """While entered, shows what the engine tells of its loading. `quiet`: no progress; remarks are up to `note`.
    watch: is told of progress, too.
    """

    def __init__(self, note: Note, *, quiet: bool = False, watch: Watch | None = None) -> None:
        self._note, self._quiet, self.watch = note, quiet, watch
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._told = False  # of the compiling: it comes in two parts, before and after the weights
        self._what = ""
        self._began = 0.0

    def __enter__(self) -> "LoadEvents":
        from powerinfer_cli.runtime import LoadEvents

        return LoadEvents(self._tell, self._progress)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def _tell(self, line: str) -> None:
        if self._bar:
            self._bar.console.print(line, markup=False)
        else:
            self._note(line)

    def _progress(self, what: str, done: int, total: int) -> None:
        if self.watch is not None:
            self.watch(what, done, total)
        if self._quiet:
            return
        compiling = what.startswith(COMPILING)
        if what != self._what:
            self._close()
            self._what, self._began = what, time.monotonic()
            if compiling and not self._told and not redraws():
                self._note(what)
                self._told = True
        if done >= total:
            self._close()
        elif redraws() and (compiling or time.monotonic() - self._began > PATIENCE):
            self._show(what, done, total)

    def _show(self, what: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = _make_bar(what)
            self._bar.start()
            self._task = self._bar.add_task(what, total=total)
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total)

    def _close(self) -> None:
        """The bar goes, and leaves no trace."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def _make_bar(what: str) -> "Progress":
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

    count = MofNCompleteColumn() if what.startswith(COMPILING) else DownloadColumn()
    return make_bar(TextColumn("{task.description}", markup=False), BarColumn(), count, TimeElapsedColumn())
