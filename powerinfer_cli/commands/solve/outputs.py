"""What a command will write, looked at before it works: minutes of work must not end at a folder that takes nothing."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.files import check_writable, same_file

__all__ = ["check_outputs"]


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """By the flag that names each file. Nothing is changed.

    Raises:
        UsageError: one is an input, or another output.
        PowerInferError: one cannot be written.
    """
    named = {flag: path for flag, path in outputs.items() if path is not None}
    read = list(inputs)
    for flag, path in named.items():
        for other in read:
            if same_file(path, other):
                raise UsageError(f"{flag} {path} would overwrite {other}, which is read: give another name")
        for before, other in named.items():
            if before == flag:
                break
            if same_file(path, other):
                raise UsageError(f"{before} and {flag} are both {path}: give two names")
        if path.is_dir():
            raise UsageError(f"{flag} {path} is a folder: name a file")
        if path.exists() and not path.is_file():
            raise UsageError(f"{flag} {path} is no ordinary file: name another")
        if not path.parent.is_dir():
            raise PowerInferError(f"{flag} {path}: cannot be written: there is no folder {path.parent}")
        check_writable(path.parent, f"name another place with {flag}")
