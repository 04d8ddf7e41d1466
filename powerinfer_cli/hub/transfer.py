"""One file from the hub to the disk: resumed where an earlier run stopped, checked, then put under its name at once."""

import hashlib
import os
import time
from contextlib import closing
from pathlib import Path
from types import TracebackType

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.hub.api import Hub, HubUnreachable, Listing, RemoteFile
from powerinfer_cli.hub.store import Folder
from powerinfer_cli.hub.watch import Watch
from powerinfer_cli.system.files import OPENER, lock_file, replace

__all__ = ["fetch_file"]

# Seconds before each new try; the count starts again whenever bytes arrived.
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
# The hub's content network answers no single request for more than 50 GB.
_PIECE = 16 << 30
_READ = 1 << 20


def fetch_file(hub: Hub, listing: Listing, file: RemoteFile, folder: Folder, watch: Watch) -> None:
    """Make `file` complete in `folder`. What arrived stays in the partial file when this ends early, however it does.

    Raises HubUnreachable when the hub stays away, PowerInferError when what came is not what the hub listed, OSError.
    """
    size = file.size or 0
    target, partial = folder.path(file), folder.partial(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    watch.file(file.path, size, folder.held(file))
    with _Part(partial, size) as part:
        _receive(hub, listing, file, part, watch)
        part.sync()
        if file.sha256 and part.digest.hexdigest() != file.sha256:
            partial.unlink()
            raise PowerInferError(
                f"{file.path} arrived damaged (its sha256 is not the hub's) and was deleted: run the same command again"
            )
        replace(partial, target)
    folder.mark(file)
    folder.drop_old_partials(file)


class _Part:
    """The partial file, open and locked, with the sha256 of the bytes in it."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.have = 0
        self.digest = hashlib.sha256()
        self._file = open(path, "a+b", opener=OPENER)  # noqa: SIM115  # it is renamed while it is open
        try:
            self._lock()
            self._digest_what_is_here(size)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
        if self.have == 0:
            self.path.unlink(missing_ok=True)

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self.digest.update(chunk)
        self.have += len(chunk)

    def restart(self) -> None:
        self._file.truncate(0)
        self.have = 0
        self.digest = hashlib.sha256()

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        try:
            lock_file(self._file)
        except BlockingIOError:
            raise PowerInferError(f"{self.path} is being downloaded by another process: wait for it") from None
        except OSError:
            # A file system without locks: the sha256 at the end still tells whether two runs got mixed up.
            pass

    def _digest_what_is_here(self, size: int) -> None:
        self._file.seek(0)
        while self.have <= size and (chunk := self._file.read(_READ)):
            self.digest.update(chunk)
            self.have += len(chunk)
        if self.have > size:
            self.restart()


def _receive(hub: Hub, listing: Listing, file: RemoteFile, part: _Part, watch: Watch) -> None:
    size = file.size or 0
    failures = 0
    while part.have < size:
        before = part.have
        try:
            _request(hub, listing, file, part, watch)
            if part.have == before:
                raise HubUnreachable("the server sends nothing")
        except HubUnreachable as error:
            failures = 1 if part.have > before else failures + 1
            if failures > len(_PAUSES):
                raise HubUnreachable(f"{file.path}: {error}; run the same command again to go on from here") from error
            pause = _PAUSES[failures - 1]
            watch.note(f"{file.path}: {error}; trying again in {pause:g} s")
            time.sleep(pause)


def _request(hub: Hub, listing: Listing, file: RemoteFile, part: _Part, watch: Watch) -> None:
    size = file.size or 0
    with closing(hub.read(listing, file, part.have, min(part.have + _PIECE, size))) as body:
        for offset, chunk in body:
            if offset != part.have:
                part.restart()
            if part.have + len(chunk) > size:
                raise PowerInferError(f"the server sends more of {file.path} than the hub's {size} bytes: stopped")
            part.append(chunk)
            watch.at(part.have)
