"""The model that comes with the package."""

from importlib.resources import as_file, files
from pathlib import Path

from powerinfer_cli.errors import PowerInferError

__all__ = ["BUNDLED", "bundled_model", "is_bundled"]

BUNDLED = "storyteller.powerinfer.gguf"


def bundled_model() -> Path:
    """Its path. Raises PowerInferError: the package has lost it."""
    with as_file(files("powerinfer_cli") / "bundled" / BUNDLED) as path:
        if not path.is_file():
            raise PowerInferError(f"{path}: the bundled model is missing: reinstall powerinfer, or give -m FILE")
        return path


def is_bundled(path: Path) -> bool:
    """Does the file lie in the package itself?"""
    with as_file(files("powerinfer_cli") / "bundled") as folder:
        return path.resolve().parent == folder.resolve()
