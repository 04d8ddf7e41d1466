"""The repository that download tests fetch, and what a folder should hold afterwards."""

import random
from pathlib import Path

from tests.helpers.hub_server import Repo, sha256

REPO = "PowerInfer/Bamboo-base-v0.1-gguf"
WEIGHTS = "bamboo-7b-v0.1.Q4_0.powerinfer.gguf"
SIZE = 3_000_000


def some_bytes(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


# The partial file of WEIGHTS: its name ends in a hash of the content's own.
PART = f"{WEIGHTS}.{sha256(sha256(some_bytes(1, SIZE)).encode())[:8]}.part"


def bamboo() -> Repo:
    files = {
        "README.md": b"# Bamboo\n",
        "config.json": b"{}",
        WEIGHTS: some_bytes(1, SIZE),
        "bamboo-7b-v0.1.Q4_0.gguf": some_bytes(2, 100),
        "bamboo-7b-v0.1.powerinfer.gguf": some_bytes(3, 200),
    }
    return Repo(files | {f"activation/activation_{n}.pt": some_bytes(10 + n, 1000 + n) for n in range(3)})


def folder(cwd: Path, repo: str = REPO) -> Path:
    return cwd / "models" / repo.rpartition("/")[2]


def files_in(root: Path) -> dict[str, bytes]:
    """All files under `root` but the manifest."""
    found = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if name != ".powerinfer-download.json"}


def wanted(repo: Repo, *names: str) -> dict[str, bytes]:
    return {name: data for name, data in repo.files.items() if name in names or name.startswith("activation/")}
