"""Files that others have open. A Unix lets them be renamed and replaced all the same; Windows only when each of these
opened them so, and a mapped one only by renaming it first. (Windows' side was not run there yet.)
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO

from powerinfer_cli.system import windows
from powerinfer_cli.system.which import WINDOWS

__all__ = [
    "OPENER",
    "lock_file",
    "name_advice",
    "open_private",
    "open_to_map",
    "own_folder",
    "replace",
    "takes_name",
    "to_disk",
]

_LOCKED_AT = 1 << 43  # Windows keeps others from reading what is locked: a byte that no file here has

_LONGEST = 259  # characters of a path that Windows takes without being told to take longer ones
_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *(port + n for port in ("COM", "LPT") for n in "123456789¹²³")]
)
_MEANT = frozenset('<>:"/\\|?*')

OPENER: Callable[[str, int], int] | None = windows.open_shared if WINDOWS else None
"""For `open`: the file can be renamed while it is open."""


def open_to_map(path: Path) -> int:
    """A descriptor to read from, whatever the path is. Raises OSError or ValueError."""
    if WINDOWS:
        return windows.open_shared(str(path), os.O_RDONLY)
    # Without O_NONBLOCK, opening a FIFO would wait for somebody to write into it.
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def open_private(path: str, flags: int) -> int:
    """For `open`: nobody but its owner may read the file, also where it is there already. Windows gives a file the
    rights of its folder, and a user's folders are the user's.
    """
    descriptor = os.open(path, flags, 0o600)
    if not WINDOWS:
        with contextlib.suppress(OSError):  # somebody else's file
            os.fchmod(descriptor, 0o600)
    return descriptor


def lock_file(file: IO[bytes]) -> None:
    """Until it is closed. Raises BlockingIOError: another has locked it; OSError: its file system has no locks."""
    if not WINDOWS:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    runtime = import_module("msvcrt")
    descriptor = file.fileno()
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _LOCKED_AT, os.SEEK_SET)
    try:
        runtime.locking(descriptor, runtime.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(*error.args) from error
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)


def to_disk(path: Path) -> None:
    """Wait until a file, or what a folder lists, would outlast a power failure. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)  # Windows writes out what may be written to
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(new: Path, path: Path) -> None:
    """Put a file in another's place, at once. Raises OSError.

    Windows refuses where the old one is mapped, but lets it be renamed: then it goes aside for a moment in which there
    is none, and stays beside it, by a name that ends in `.old`, until nobody has it.
    """
    try:
        new.replace(path)
    except OSError:
        if not WINDOWS or not path.is_file():
            raise
        aside = path.parent / f".{path.name[:32]}.{secrets.token_hex(4)}.old"
        path.rename(aside)
        try:
            new.replace(path)
        except OSError:
            aside.rename(path)
            raise
        aside_of_old = path.parent.glob(f".{path.name[:32]}.*.old")
        for old in aside_of_old:
            with contextlib.suppress(OSError):
                old.unlink()


def takes_name(name: str) -> bool:
    """Whether a file can be called so. Windows has devices of some names, in every folder and with any ending, cuts
    dots and spaces off the end, and means other things by some characters.
    """
    if not WINDOWS:
        return True
    device = name.partition(".")[0].rstrip(" ").upper() in _DEVICES
    return not device and name[-1:] not in (".", " ") and name.isprintable() and not _MEANT & set(name)


def name_advice(path: Path) -> str:
    """What an error about a path should say as well, in brackets; nothing where its length is not to blame.

    Windows says of a longer one that it is not there.
    """
    if not WINDOWS or len(str(path.absolute())) <= _LONGEST or str(path).startswith("\\\\?\\"):
        return ""
    return f" (longer than {_LONGEST} characters: Windows takes such names where its setting LongPathsEnabled is 1)"


def own_folder(parent: Path, name: str) -> Path | None:
    """A folder in one that all users share, to which nobody else has access; None where that cannot be.

    Windows has no such parent: each user has a folder for temporary files.
    """
    folder = parent / (name if WINDOWS else f"{name}-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        info = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(info.st_mode):
        return None
    return folder if WINDOWS or (info.st_uid == os.getuid() and not info.st_mode & 0o077) else None
