"""The folder of a Ray that this process starts, and a guard that ends that Ray after this process, however it ends."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from powerinfer_cli.cluster.replicas import guard
from powerinfer_cli.cluster.replicas.guard import ENDED, MARK
from powerinfer_cli.system.files import lock_file
from powerinfer_cli.system.signals import APART

__all__ = ["guarded"]

PREFIX = "powerinfer-ray-"
LOCK = "held"  # a file of each folder, locked while its server lives
PATIENCE_S = 10.0
NEW_S = 60.0


@contextmanager
def guarded() -> Iterator[tuple[str, Callable[[], None]]]:
    """A folder for Ray, and what kills all processes that were started within; they are killed when left, too.

    Folders of servers that are dead are removed.
    """
    _remove_stale(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    with (folder / LOCK).open("wb") as held:
        with suppress(OSError):
            lock_file(held)
        mark = secrets.token_hex(16)
        program = [sys.executable, "-I", "-S", guard.__file__, mark, str(folder)]
        # A session of its own: what ends all of a terminal's processes would end the guard first.
        process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **APART)
        os.environ[MARK] = mark

        def kill() -> None:
            with suppress(subprocess.TimeoutExpired, ValueError):  # the latter: it was told already
                process.communicate(ENDED, PATIENCE_S)

        try:
            yield str(folder), kill
        finally:
            os.environ.pop(MARK, None)
            if process.returncode is None:
                kill()
    shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            with (folder / LOCK).open("r+b") as held:
                lock_file(held)
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # Ray may write yet where all was removed; or it is being made just now
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > NEW_S:
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
