"""Writing files all or nothing: an old file stays whole until the new one is."""

import io
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.system.files import name_advice, replace, to_disk

__all__ = ["check_writable", "make_folder", "replacing", "same_file", "write_torch"]


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` for what is written in the block, which then takes the place of `path`.

    durable: wait until it would outlast a power failure, which may take long on a busy disk.

    Raises:
        PowerInferError: an OSError in the block (a full disk, a folder without write permission), or `path` is a
            folder or a device; nothing is left.
    """
    if path.exists() and not path.is_file():  # a device would be gone for good
        raise PowerInferError(f"{path}: cannot be written: it is no ordinary file")
    temporary = path.parent / f".{path.name[:32]}.{secrets.token_hex(8)}.tmp"
    try:
        yield temporary
        if durable:
            to_disk(temporary)
        replace(temporary, path)
        if durable:
            with suppress(OSError):  # a folder that does not let itself be opened
                to_disk(path.parent)
    except OSError as error:
        reason = f"{error.strerror or error}{name_advice(temporary)}"
        raise PowerInferError(f"{path}: cannot be written: {reason}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(folder: Path, advice: str) -> None:
    """Whether a file could be made in a folder, or in the one where it would be made; nothing is left there.

    Raises PowerInferError, with the advice.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise PowerInferError(f"{folder}: cannot be written: {error.strerror or error}: {advice}") from error


def same_file(a: Path, b: Path) -> bool:
    """Whether both name one file, by links, too; or would, where there is none yet."""
    try:
        return a.samefile(b)
    except OSError:
        return a.resolve() == b.resolve()


def make_folder(path: Path) -> Path:
    """The folder, made with those above it where they are missing. Raises PowerInferError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{error.strerror or error}{name_advice(path)}"
        raise PowerInferError(f"{path}: cannot be made a folder: {reason}") from error
    return path


def write_torch(path: Path, value: Any) -> None:
    """As `torch.save`; but torch makes RuntimeErrors of a full disk, so that it does not write to the file itself."""
    import torch

    made = io.BytesIO()
    torch.save(value, made)
    path.write_bytes(made.getbuffer())
