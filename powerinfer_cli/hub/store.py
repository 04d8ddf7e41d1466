"""The folder of one repository on this machine: what is complete in it, what is half here, and what the hub listed."""

import glob
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.hub.api import Listing, RemoteFile
from powerinfer_cli.hub.choice import MANIFEST, is_safe
from powerinfer_cli.system.files import replace

__all__ = ["Folder"]


@dataclass
class Folder:
    """`root` holds the repository's files under their own names, and a manifest of ours.

    `listing` is what the hub said last. `stamps` tells for each complete file which content it is and the size and
    modification time it had, so that gigabytes need not be read again to know that they are still right.
    """

    root: Path
    listing: Listing | None = None
    stamps: dict[str, tuple[str, int, int]] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, repo: str) -> "Folder":
        """The folder as its manifest describes it; empty where there is none, or a damaged one."""
        try:
            saved = json.loads((root / MANIFEST).read_text("utf-8"))
            listing = _listing(saved["listing"])
            stamps = {str(path): (str(i), int(s), int(t)) for path, (i, s, t) in saved["stamps"].items()}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return cls(root)
        if listing.repo != repo:
            raise PowerInferError(f"{root} holds files of {listing.repo}, not of {repo}: choose another --local-dir")
        return cls(root, listing, stamps)

    def path(self, file: RemoteFile) -> Path:
        """Where `file` belongs; never outside the folder, not even through a link inside it."""
        target = self.root / file.path
        if not is_safe(file.path) or not target.parent.resolve().is_relative_to(self.root.resolve()):
            raise PowerInferError(f"{file.path!r} would be written outside {self.root}: refused")
        return target

    def partial(self, file: RemoteFile) -> Path:
        """Where the bytes of `file` gather until all are here; another content has another name."""
        target = self.path(file)
        # Hashed, for it is the hub's text: it may hold anything.
        content = hashlib.sha256(file.identity.encode("utf-8", "replace")).hexdigest()[:8]
        return target.with_name(f"{target.name}.{content}.part")

    def drop_old_partials(self, file: RemoteFile) -> None:
        """Remove what earlier runs left of other contents of `file`: it would fill the disk for nothing."""
        target = self.path(file)
        for partial in target.parent.glob(f"{glob.escape(target.name)}.{'[0-9a-f]' * 8}.part"):
            partial.unlink()

    def held(self, file: RemoteFile) -> int:
        """Bytes of `file` that an earlier run left."""
        try:
            return min(self.partial(file).stat().st_size, file.size or 0)
        except OSError:
            return 0

    def has(self, file: RemoteFile) -> bool:
        """Whether `file` is complete here, as far as can be told without reading it."""
        try:
            stat = self.path(file).stat()
        except OSError:
            return False
        stamp = (file.identity, stat.st_size, stat.st_mtime_ns)
        return stat.st_size == file.size and self.stamps.get(file.path) == stamp

    def adopt(self, file: RemoteFile, note: Callable[[str], None]) -> bool:
        """Whether a file of that name that came here by another way is the hub's: then it counts as complete.

        `note` is told before a file is read, which takes a while for a large one.
        """
        target = self.path(file)
        if not target.is_file() or target.stat().st_size != file.size:
            return False
        if file.sha256 is None:
            known = self.stamps.get(file.path)
            if known and known[0] != file.identity:
                return False
        else:
            note(f"{file.path} is here already: checking its sha256")
            with target.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
                    return False
        self.mark(file)
        return True

    def mark(self, file: RemoteFile) -> None:
        """Remember that `file` is complete."""
        stat = self.path(file).stat()
        self.stamps[file.path] = (file.identity, stat.st_size, stat.st_mtime_ns)
        self._save()

    def record(self, listing: Listing) -> None:
        """Remember what the hub lists, for the day when it cannot be asked."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.listing = listing
        self._save()

    def _save(self) -> None:
        if self.listing is None:
            return
        saved = {"listing": asdict(self.listing), "stamps": self.stamps}
        draft = self.root / f"{MANIFEST}.new"
        draft.write_text(json.dumps(saved), "utf-8")
        replace(draft, self.root / MANIFEST)


def _listing(saved: dict[str, Any]) -> Listing:
    files = tuple(RemoteFile(**file) for file in saved["files"])
    if not all(isinstance(f.path, str) and isinstance(f.size, int | None) and is_safe(f.path) for f in files):
        raise ValueError("not a listing of ours")
    return Listing(str(saved["repo"]), str(saved["revision"]), str(saved["commit"]), files)
