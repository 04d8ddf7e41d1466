"""From a repository's name to files on this machine: what `powerinfer download` and `main -hf` share."""

import errno
import glob
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.hub.aliases import resolve
from powerinfer_cli.hub.api import DEFAULT_REVISION, Hub, HubUnreachable, Listing, RemoteFile
from powerinfer_cli.hub.choice import Choice, Wish, choose, size_text
from powerinfer_cli.hub.store import Folder
from powerinfer_cli.hub.transfer import fetch_file
from powerinfer_cli.hub.watch import Watch

__all__ = ["LOCAL_DIR", "FetchedModel", "Request", "fetch", "fetch_model", "parse_spec"]

LOCAL_DIR = Path("models")
# llama.cpp's -hf takes Q4_K_M when no quant is named; PowerInfer's own repositories have Q4_0, named so or q4.
_USUAL_QUANTS = ("Q4_K_M", "Q4_0", "Q4")


@dataclass(frozen=True)
class Request:
    """Files of `repo` that `wish` means, at `revision` (None: its default branch), under `local_dir`/NAME."""

    repo: str
    wish: Wish
    local_dir: Path = LOCAL_DIR
    revision: str | None = None
    token: str | None = None

    @property
    def folder(self) -> Path:
        return self.local_dir.expanduser() / self.repo.rpartition("/")[2]


@dataclass(frozen=True)
class FetchedModel:
    """All complete on disk. `models`: each model's first file; `size`: bytes of all `files`; `new`: files fetched."""

    folder: Path
    models: tuple[Path, ...]
    files: tuple[Path, ...]
    size: int
    new: int


def parse_spec(spec: str) -> tuple[str, str | None, str | None]:
    """(repository, quant, default file) of REPO_OR_ALIAS[:QUANT]."""
    if "://" in spec:
        raise UsageError(f"'{spec}' is an address: give OWNER/NAME, its last two parts")
    name, colon, quant = spec.strip().partition(":")
    if not name or (colon and not quant):
        raise UsageError(f"'{spec}' should read REPO_OR_ALIAS or REPO_OR_ALIAS:QUANT, as in bamboo-7b:q4")
    repo, default = resolve(name)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo, re.ASCII):
        raise PowerInferError(f"{repo!r} is no repository name: it should read OWNER/NAME")
    return repo, quant or None, default


def fetch_model(
    spec: str,
    progress: Watch,
    *,
    token: str | None = None,
    local_dir: Path = LOCAL_DIR,
    file: str | None = None,
) -> Path:
    """The first GGUF file of REPO_OR_ALIAS[:QUANT], or the one called `file`, downloaded unless it is already
    complete under `local_dir`.

    The hub is not asked when it is, so this works offline then. Raises PowerInferError.
    """
    repo, quant, default = parse_spec(spec)
    wish = Wish(quant=quant, default=default, fallbacks=_USUAL_QUANTS)
    if file is not None:
        wish = Wish(include=(glob.escape(file),))
    request = Request(repo, wish, Path(local_dir), token=token)
    with progress as watch:
        with _disk_errors(request.folder):
            here = _already_here(request, Folder.open(request.folder, repo), watch)
        fetched = here or fetch(request, watch)
        if not fetched.models:
            raise PowerInferError(f"{file} of {repo} is no GGUF file")
        return fetched.models[0]


def fetch(request: Request, watch: Watch) -> FetchedModel:
    """Bring the files of `request` here, all that is missing of them. Raises PowerInferError."""
    with _disk_errors(request.folder):
        folder = Folder.open(request.folder, request.repo)
        hub = Hub(request.token)
        try:
            listing = hub.listing(request.repo, request.revision)
        except HubUnreachable as error:
            here = _already_here(request, folder, watch)
            if here is None:
                raise
            watch.note(f"{error}; all files are here already, from an earlier download")
            return here
        if listing.unsafe:
            watch.note(f"ignored names that are unsafe as file names ({len(listing.unsafe)}): {listing.unsafe[0]!r}")
        choice = choose(request.repo, {file.path: file.size for file in listing.files}, request.wish)
        listing = _described(hub, listing, choice)
        files = _chosen(listing, choice)
        missing = [file for file in files if not folder.has(file) and not folder.adopt(file, watch.note)]
        to_come = sum((file.size or 0) - folder.held(file) for file in missing)
        _check_space(folder, to_come)
        folder.record(listing)
        if missing:
            total = sum(file.size or 0 for file in files)
            watch.begin(len(files), total, total - to_come)
        for file in missing:
            fetch_file(hub, listing, file, folder, watch)
    return _fetched(request, folder, choice, files, len(missing))


def _already_here(request: Request, folder: Folder, watch: Watch) -> FetchedModel | None:
    """What an earlier download left, when it is all that `request` means."""
    if folder.listing is None or folder.listing.revision != (request.revision or DEFAULT_REVISION):
        return None
    choice = choose(request.repo, {file.path: file.size for file in folder.listing.files}, request.wish)
    files = _chosen(folder.listing, choice)
    if not all(folder.has(file) or folder.adopt(file, watch.note) for file in files):
        return None
    return _fetched(request, folder, choice, files, 0)


def _chosen(listing: Listing, choice: Choice) -> list[RemoteFile]:
    by_path = {file.path: file for file in listing.files}
    return [by_path[path] for path in choice.files]


def _described(hub: Hub, listing: Listing, choice: Choice) -> Listing:
    wanted = set(choice.files)
    files = tuple(hub.described(listing, f) if f.path in wanted else f for f in listing.files)
    return replace(listing, files=files)


def _fetched(request: Request, folder: Folder, choice: Choice, files: Sequence[RemoteFile], new: int) -> FetchedModel:
    return FetchedModel(
        request.folder,
        tuple(folder.root / model.path for model in choice.models),
        tuple(folder.path(file) for file in files),
        sum(file.size or 0 for file in files),
        new,
    )


def _check_space(folder: Folder, needed: int) -> None:
    place = next(path for path in (folder.root, *folder.root.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise PowerInferError(
            f"{size_text(needed)} are still to come and {folder.root} has {size_text(free)} free: "
            "make room or choose another --local-dir"
        )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PowerInferError(
                f"the disk of {folder} is full: make room, then run the same command again to go on from here"
            ) from error
        where = error.filename if isinstance(error.filename, str) else str(folder)
        raise PowerInferError(f"cannot write to {where}: {error.strerror or error}") from error
