"""Which files go with a model, and deleting them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.hub.choice import MANIFEST
from powerinfer_cli.hub.local.stored import StoredModel

__all__ = ["Removal", "delete", "removal"]

# Folders that `solve` and `download` put beside a model, which hold nothing else.
MADE = ("activation", "predictor")
SUFFIXES = {".pt", ".json", ".npy", ".npz", ".gpuidx"}  # of what they hold


@dataclass(frozen=True)
class Removal:
    """paths: files, in order. folders: that are empty then, the innermost first. size: bytes."""

    paths: tuple[Path, ...]
    folders: tuple[Path, ...]
    size: int


def removal(model: StoredModel, models: Sequence[StoredModel]) -> Removal:
    """A model's files and its plan; what else was made for it, where no other model shares its folder. What links lead
    to goes with them in the hub's cache, which is made of links; elsewhere a link is all that goes.
    """
    folder = model.path.parent
    paths = [path for file in model.files for path in _with_content(file)]
    plan = model.path.with_name(f"{model.path.name}.generated.gpuidx")
    paths += [plan] if plan.is_file() else []
    folders: list[Path] = []
    if not any(other.path.parent == folder for other in models if other is not model):
        for name in MADE:
            made = folder / name
            if made.is_dir() and not made.is_symlink():
                paths += [path for path in sorted(made.iterdir()) if path.is_file() and path.suffix in SUFFIXES]
                folders.append(made)
        if (folder / MANIFEST).is_file():
            paths.append(folder / MANIFEST)
            folders.append(folder)
    size = sum(path.stat().st_size for path in paths if path.is_file() and not path.is_symlink())
    return Removal(tuple(dict.fromkeys(paths)), tuple(folders), size)


def delete(going: Removal) -> None:
    """Raises PowerInferError: a file that cannot be deleted; those before it are gone."""
    for path in going.paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise PowerInferError(f"{path}: cannot be deleted: {error.strerror}") from error
    for folder in going.folders:
        with suppress(OSError):  # somebody keeps something else there
            folder.rmdir()


def _with_content(path: Path) -> list[Path]:
    """A link of the hub's cache with its content, which lies in the same repository's `blobs`."""
    if not path.is_symlink():
        return [path]
    content = path.resolve()
    own = content.parent.name == "blobs" and content.parent.parent in path.absolute().parents
    return [path, content] if own and content.is_file() else [path]
