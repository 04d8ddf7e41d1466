"""Where models are looked for: ./models, folders that are named, and the hub's cache."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.hub.choice import find_models
from powerinfer_cli.hub.local.stored import StoredModel, names_of

__all__ = ["MODELS", "hub_cache", "stored_models"]

Note = Callable[[str], None]

MODELS = Path("models")  # where `powerinfer download` puts them
DEEPEST = 3  # folders below the one that is looked through
MOST_FILES = 20_000  # that are looked at: a folder with more is not one of models


def stored_models(folders: Sequence[Path], cache: Path | None, note: Note) -> list[StoredModel]:
    """All models of some folders, and of the hub's cache, by name. note: told of two that would have one name, of which
    the first keeps it, and of folders in these that cannot be read.

    Raises:
        PowerInferError: a folder that is none, cannot be read, or holds far too much.
    """
    found: dict[str, StoredModel] = {}
    models = [model for folder in folders for model in _in_folder(folder, note)]
    if cache is not None and cache.is_dir():
        models += _in_cache(cache, note)
    for model in models:
        other = found.setdefault(model.name.lower(), model)
        if other is model or _same(other.path, model.path):
            continue
        longer = replace(model, name=model.path.with_suffix("").as_posix())
        found[longer.name] = longer  # in its own case: folders may differ by that alone
        note(f"two models are called {model.name}: {other.path} is; the other is {longer.name}")
    return [found[name] for name in sorted(found)]


def hub_cache() -> Path:
    """huggingface_hub's own, as its variables say."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def _same(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return a.absolute() == b.absolute()  # a link to nothing


def _in_folder(folder: Path, note: Note) -> list[StoredModel]:
    paths = {path.relative_to(folder).as_posix(): path for path in _files(folder, note)}
    models = find_models(paths)
    found = []
    for name, model in zip(names_of(models), models, strict=True):
        files = tuple(paths[path] for path in model.files)
        text = name.encode("utf-8", "replace").decode()  # a file's name may be none; then it has a "?" there
        found.append(StoredModel(text, files, sum(map(_size, files)), model.missing))
    return found


def _in_cache(cache: Path, note: Note) -> Iterator[StoredModel]:
    """OWNER/NAME, with :TYPE where there are several; of each repository the snapshot that came last."""
    for repository in sorted(cache.glob("models--*--*")):
        owner, _, name = repository.name.removeprefix("models--").partition("--")
        snapshots = [path for path in (repository / "snapshots").glob("*") if path.is_dir()]
        if snapshots:
            for model in _in_folder(max(snapshots, key=lambda path: path.stat().st_mtime), note):
                [file] = find_models([model.path.name])
                yield replace(model, name=f"{owner}/{name}:{file.quant or model.name}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # a link to nothing; opening it says so


def _files(folder: Path, note: Note) -> Iterator[Path]:
    """Of a folder and those in it, each once, wherever links lead. Raises PowerInferError."""
    if not folder.is_dir():
        raise PowerInferError(f"{folder}: not a folder: give one that holds GGUF files")
    seen: set[tuple[int, int]] = set()
    left = [(folder, 0)]
    n_files = 0
    while left:
        here, depth = left.pop()
        try:
            stat = here.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            seen.add((stat.st_dev, stat.st_ino))
            entries = sorted(here.iterdir())
        except OSError as error:
            if here == folder:
                raise PowerInferError(f"{folder}: cannot be read: {error.strerror}") from error
            note(f"{here}: cannot be read, and is left out: {error.strerror}")
            continue
        for path in entries:
            n_files += 1
            if n_files > MOST_FILES:
                raise PowerInferError(f"{folder}: holds more than {MOST_FILES} files: give a folder of models")
            if os.path.isdir(path):  # noqa: PTH112  # Path's raises an error where one may not look
                if depth < DEEPEST and not path.name.startswith("."):
                    left.append((path, depth + 1))
            elif path.suffix.lower() == ".gguf":
                yield path
