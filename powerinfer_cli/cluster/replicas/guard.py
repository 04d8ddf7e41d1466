"""A program beside a server that has started Ray: when that ends, however it does, nothing of what it started stays.

Run by its path, with the standard library alone: python guard.py MARK FOLDER. It waits for the end of its input, then
kills the processes whose environment has the variable POWERINFER_RUN=MARK (on systems that have /proc), and removes the
folder. A server that ends as it should has said so on the input; of another the guard tells.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ENDED", "MARK", "marked"]

MARK = "POWERINFER_RUN"
ENDED = b"ended"
ROUNDS, PAUSE_S = 50, 0.1  # who is killed may have started another one meanwhile
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows kills by any


def marked(mark: str) -> Iterator[int]:
    """Processes that were started with it."""
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes().split(b"\0")  # empty of who has ended and is not waited for
        except OSError:
            continue
        if wanted in words:
            yield int(folder.name)


def main(mark: str, folder: str) -> None:
    said = sys.stdin.buffer.read()
    if said != ENDED:
        sys.stderr.write("error: the server or its Ray was killed: all that belonged to it is ended\n")
        sys.stderr.flush()
    for _ in range(ROUNDS):
        left = list(marked(mark))
        if not left:
            break
        for pid in left:
            try:
                os.kill(pid, KILL)
            except OSError:
                continue
        time.sleep(PAUSE_S)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
