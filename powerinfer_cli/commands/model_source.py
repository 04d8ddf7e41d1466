"""Which model file a command runs: -m, -hf, or the bundled one."""

from importlib.resources import as_file, files
from pathlib import Path

from powerinfer_cli.commands.shared.flags import ModelFlags
from powerinfer_cli.errors import PowerInferError, UsageError

__all__ = ["BUNDLED", "find_model", "is_bundled"]

BUNDLED = "storyteller.powerinfer.gguf"


def find_model(flags: ModelFlags, hf_file: str | None = None) -> Path:
    """The model's path, fetched first where -hf asks for it; `hf_file`: which of that repository's.

    Raises:
        PowerInferError: the download fails, or the package has lost its model.
        UsageError: both -m and -hf, or a file without -hf.
    """
    if flags.model and flags.hf:
        raise UsageError("-m and -hf exclude each other: give one model")
    if hf_file and not flags.hf:
        raise UsageError("--hf-file names a file of -hf REPO, which is missing")
    if flags.model:
        return flags.model
    if flags.hf:
        from powerinfer_cli.commands.download.progress import make_watch
        from powerinfer_cli.hub import fetch_model

        return fetch_model(flags.hf, make_watch(), token=flags.hf_token, file=hf_file)
    with as_file(files("powerinfer_cli") / "bundled" / BUNDLED) as path:
        if not path.is_file():
            raise PowerInferError(f"{path}: the bundled model is missing: reinstall powerinfer, or give -m FILE")
        return path


def is_bundled(path: Path) -> bool:
    """Does the file lie in the package itself?"""
    with as_file(files("powerinfer_cli") / "bundled") as folder:
        return path.resolve().parent == folder.resolve()
