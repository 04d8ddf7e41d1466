"""Where compiled kernels are kept: a file of machine code each, with a checksum before it."""

import functools
import hashlib
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import llvmlite.binding

import powerinfer_cli.kernels
from powerinfer_cli.kernels.jit.rung import RUNG
from powerinfer_cli.system.files import own_folder, replace

__all__ = ["cache_folder", "load_code", "not_kept", "save_code"]

CACHE_VARIABLE = "POWERINFER_CACHE"
_DIGEST = 32  # bytes of SHA-256


@functools.cache
def _sources() -> str:
    """A hash of all that machine code depends on: the kernels, the compiler, the CPU and what is used of it."""
    digest = hashlib.sha256()
    for path in sorted(Path(powerinfer_cli.kernels.__path__[0]).rglob("*.py")):
        digest.update(path.read_bytes())
    for package in ("numba", "llvmlite", "numpy"):
        digest.update(version(package).encode())
    cpu = llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features().flatten()
    digest.update(f"{sys.version_info[:3]} {platform.machine()} {RUNG} {cpu}".encode())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where this version's compiled kernels are: the user's cache folder, or a private one where that is read-only."""
    root = os.environ.get(CACHE_VARIABLE) or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(root).expanduser() / "powerinfer" / "kernels" / _sources()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        pass
    own = own_folder(Path(tempfile.gettempdir()), f"powerinfer-kernels-{_sources()}")
    if own is not None:
        return own
    return Path(tempfile.mkdtemp(prefix="powerinfer-kernels-"))  # what is compiled serves this process only


@functools.cache
def _folder() -> Path:
    return cache_folder()


_FAILURES: list[str] = []


def not_kept() -> str | None:
    """Why compiled kernels could not be kept on the disk, the first time that this happened in this process."""
    return _FAILURES[0] if _FAILURES else None


def load_code(name: str) -> bytes | None:
    """A kernel's machine code; None where it is not there, or damaged."""
    try:
        data = (_folder() / f"{name}.o").read_bytes()
    except OSError:
        return None
    code = data[_DIGEST:]
    return code if hashlib.sha256(code).digest() == data[:_DIGEST] else None


def save_code(name: str, code: bytes) -> None:
    """Keep it, whole or not at all. Where it cannot be kept, `not_kept` tells why."""
    temporary = None
    try:
        folder = _folder()
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f"{name}.tmp.", delete=False) as file:
            temporary = Path(file.name)
            file.write(hashlib.sha256(code).digest() + code)
        replace(temporary, folder / f"{name}.o")
    except (OSError, RuntimeError) as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if load_code(name) == code:
            return  # Windows: another process reads what it has just put there
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        _FAILURES.append(f"{_shown_folder()}: {reason}")


def _shown_folder() -> str:
    try:
        return str(_folder())
    except (OSError, RuntimeError):
        return "the folder for compiled kernels"
