"""How far a download is: bars on a terminal, plain lines anywhere else, always on stderr."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from powerinfer_cli.commands.shared.bars import redraws, stderr_console
from powerinfer_cli.hub import Watch, size_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

__all__ = ["DOWNLOADING", "Tell", "make_watch"]

Tell = Callable[[str, int, int], None]
DOWNLOADING = "downloading the model"

_LINE_SECONDS = 10.0
_LARGE = 10_000_000


def make_watch(tell: Tell | None = None) -> Watch:
    """Bars where stderr is a terminal that can redraw a line, plain lines otherwise. tell: told of progress, too, as of
    the loading of a model: what is done, bytes, of how many.
    """
    shown: Watch = Bars(stderr_console()) if redraws() else Lines()
    return shown if tell is None else Told(shown, tell)


class Told:
    """Another watch, and somebody who is told of all files together."""

    def __init__(self, shown: Watch, tell: Tell) -> None:
        self._shown, self._tell = shown, tell
        self._total = self._done = self._at = 0

    def __enter__(self) -> "Told":
        self._shown.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._shown.__exit__(kind, error, tb)

    def begin(self, files: int, total: int, done: int) -> None:
        self._total, self._done = total, done
        self._tell(DOWNLOADING, done, total)
        self._shown.begin(files, total, done)

    def file(self, name: str, size: int, done: int) -> None:
        self._at = done
        self._shown.file(name, size, done)

    def at(self, done: int) -> None:
        self._done, self._at = self._done + done - self._at, done
        self._tell(DOWNLOADING, self._done, self._total)
        self._shown.at(done)

    def note(self, text: str) -> None:
        self._shown.note(text)


class Lines:
    """A line for the whole, one for each large file, and one every ten seconds while a file takes longer."""

    def __enter__(self) -> "Lines":
        self._name, self._size, self._first, self._began, self._said = "", 0, 0, 0.0, 0.0
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def begin(self, files: int, total: int, done: int) -> None:
        here = f", {size_text(done)} of it already here" if done else ""
        self.note(f"downloading {size_text(total)} in {files} file{'s' if files != 1 else ''}{here}")

    def file(self, name: str, size: int, done: int) -> None:
        self._name, self._size, self._first = name, size, done
        self._began = self._said = time.monotonic()
        if size >= _LARGE or done:
            self.note(f"{name}: {size_text(size)}" + (f", going on from {size_text(done)}" if done else ""))

    def at(self, done: int) -> None:
        now = time.monotonic()
        if now - self._said < _LINE_SECONDS:
            return
        self._said = now
        speed = (done - self._first) / (now - self._began)
        left = f", {(self._size - done) / speed:.0f} s left" if speed > 0 else ""
        self.note(
            f"{self._name}: {size_text(done)} of {size_text(self._size)} ({done / self._size:.0%}), "
            f"{size_text(max(speed, 0))}/s{left}"
        )

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Bars:
    """A bar for the current file and, when there are several, one for all of them."""

    def __init__(self, console: "Console") -> None:
        from rich.constrain import Constrain
        from rich.live import Live
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed
        from rich.table import Column

        name = Column(no_wrap=True, overflow="ellipsis", max_width=44)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=name),
            BarColumn(bar_width=None),
            DownloadColumn(),
            Speed(),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
        )
        # Three columns are left for the ^C that a terminal echoes: on a line of its own it would break the redrawing.
        self._live = Live(
            console=console,
            get_renderable=lambda: Constrain(self._progress.get_renderable(), console.width - 3),
            redirect_stdout=False,
        )
        self._total: TaskID | None = None
        self._file: TaskID | None = None
        self._done = self._at = 0

    def __enter__(self) -> "Bars":
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()

    def begin(self, files: int, total: int, done: int) -> None:
        self._done = done
        if files > 1:
            self._total = self._progress.add_task(f"all {files} files", total=total, completed=done)

    def file(self, name: str, size: int, done: int) -> None:
        if self._file is not None:
            self._progress.remove_task(self._file)
        self._file = self._progress.add_task(name, total=size, completed=done)
        self._at = done

    def at(self, done: int) -> None:
        self._done += done - self._at
        self._at = done
        if self._file is not None:
            self._progress.update(self._file, completed=done)
        if self._total is not None:
            self._progress.update(self._total, completed=self._done)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False)
