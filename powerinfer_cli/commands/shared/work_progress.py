"""How far work is: a bar on a terminal, and now and then a line elsewhere."""

import sys
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from powerinfer_cli.commands.shared.bars import BETWEEN, make_bar, redraws, shown_time

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["WorkProgress"]

PATIENCE = 0.5  # seconds that something may take without a word


class WorkProgress:
    """While entered, `tell(done, total)` shows how much is done, and how long the rest will take at the rate so far."""

    def __init__(self, what: str, *, in_bytes: bool) -> None:
        self._what, self._in_bytes = what, in_bytes
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._began = self._told = monotonic()

    def __enter__(self) -> "WorkProgress":
        self._began = self._told = monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    def tell(self, done: int, total: int) -> None:
        now = monotonic()
        if redraws():
            if self._bar is None and now - self._began > PATIENCE:
                self._bar = _make_bar(self._in_bytes)
                self._bar.start()
                self._task = self._bar.add_task(self._what, total=total)
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, completed=done, total=total)
        elif now - self._told >= BETWEEN and 0 < done < total:
            self._told = now
            left = (now - self._began) * (total - done) / done
            print(f"{self._what}: {done / total:.0%}, about {shown_time(left)} left", file=sys.stderr, flush=True)


def _make_bar(in_bytes: bool) -> "Progress":
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    return make_bar(
        TextColumn("{task.description}", markup=False), BarColumn(), count, TimeRemainingColumn(compact=True)
    )
