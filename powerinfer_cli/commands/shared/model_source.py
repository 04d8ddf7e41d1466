"""Which model file a command runs: -m, a path or a name; -hf; or the bundled one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from powerinfer_cli.commands.shared.flags.model import ModelFlags
from powerinfer_cli.errors import UsageError

if TYPE_CHECKING:
    from powerinfer_cli.commands.download.progress import Tell

__all__ = ["find_model"]


def find_model(
    flags: ModelFlags, hf_file: str | None = None, folders: Sequence[Path] = (), tell: "Tell | None" = None
) -> Path:
    """The model's path, fetched first where -hf asks for it; `hf_file`: which of that repository's. folders: where -m
    looks for names, too. tell: told how far a download is.

    Raises:
        PowerInferError: the download fails, or the package has lost its model.
        UsageError: both -m and -hf, or a file without -hf.
    """
    if flags.model and flags.hf:
        raise UsageError("-m and -hf exclude each other: give one model")
    if hf_file and not flags.hf:
        raise UsageError("--hf-file names a file of -hf REPO, which is missing")
    if flags.model:
        from powerinfer_cli.hub.local import named_model

        return named_model(flags.model, folders)
    if flags.hf:
        from powerinfer_cli.commands.download.progress import make_watch
        from powerinfer_cli.hub import fetch_model

        return fetch_model(flags.hf, make_watch(tell), token=flags.hf_token, file=hf_file)
    from powerinfer_cli.opening import bundled_model

    return bundled_model()
