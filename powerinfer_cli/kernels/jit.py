"""Numba, set up once: which instructions kernels use, where compiled code is kept, how a kernel is declared.

A kernel is a function over addresses, compiled on first use and read from the disk from then on. Kernels are called
through their addresses, by each other and by `team`, so that only what a model needs is ever compiled.
"""

import functools
import hashlib
import io
import itertools
import os
import pickle
import platform
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.ccallback import CFunc

from powerinfer_cli.kernels.helpers import Helper
from powerinfer_cli.kernels.rung import RUNG, RUNG_REASON, Rung

__all__ = [
    "RUNG",
    "RUNG_REASON",
    "Kernel",
    "Rung",
    "cache_folder",
    "declared",
    "family",
    "helper",
    "kernel",
    "not_kept",
    "prepare",
]

CACHE_VARIABLE = "POWERINFER_CACHE"


def _sources() -> str:
    """A hash of all that compiled code depends on. (Numba by itself looks at the kernel's own file only.)"""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    for package in ("numba", "llvmlite", "numpy"):
        digest.update(version(package).encode())
    digest.update(f"{sys.version_info[:3]} {platform.machine()}".encode())
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
    shared = Path(tempfile.gettempdir()) / f"powerinfer-kernels-{os.getuid()}-{_sources()}"
    try:
        shared.mkdir(mode=0o700, exist_ok=True)
        info = shared.lstat()
        if stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o077:
            return shared
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="powerinfer-kernels-"))  # what is compiled serves this process only


class _CheckedFile(IndexDataCacheFile):
    """Numba's files of one cached function, with checksums: a damaged one counts as absent."""

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)
        return hashlib.sha256(data).digest() + data

    def _load_index(self) -> Any:
        try:
            content = io.BytesIO(Path(self._index_path).read_bytes())
            if pickle.load(content) != self._version:
                return {}
            stamp, overloads = pickle.loads(_checked(content.read()))
        except Exception:  # whatever damage makes pickle raise
            return {}
        return overloads if stamp == self._source_stamp else {}

    def _load_data(self, name: str) -> Any:
        return pickle.loads(_checked(Path(self._data_path(name)).read_bytes()))


def _checked(data: bytes) -> bytes:
    """What follows the checksum. Raises OSError: Numba takes it as "not there"."""
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise OSError("wrong checksum")
    return data[32:]


# error_model: no checks for division by zero.
# fastmath: a*b+c in one step and sums in vectors, but NaN and infinity stay.
_OPTIONS: dict[str, Any] = {
    "nopython": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz", "arcp", "reassoc"},
}


class Kernel:
    """A function of C numbers and addresses. `address` compiles it, or loads it from the disk, on first use."""

    def __init__(self, function: Callable[..., Any], signature: Any, name: str) -> None:
        self.function, self.signature, self.name = function, signature, name
        self._compiled: Any = None
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Compiled or loaded in this process."""
        return self._compiled is not None

    def load(self) -> bool:
        """Get it from the disk, if it is there and undamaged."""
        return self._get(may_compile=False)

    @property
    def address(self) -> int:
        if self._compiled is None:
            self._get(may_compile=True)
        return int(self._compiled.address)

    @property
    def call(self) -> Any:
        """As a Python function of integers and floats; it runs without the interpreter's lock."""
        if self._compiled is None:
            self._get(may_compile=True)
        return self._compiled.ctypes

    def _get(self, *, may_compile: bool) -> bool:
        with self._lock:
            if self._compiled is None:
                signature = self.signature.args, self.signature.return_type
                compiled: Any = CFunc(self.function, signature, {}, dict(_OPTIONS))
                compiled._cache = _cache_of(self)
                if not may_compile and not compiled._cache.load_overload(
                    compiled._sig, compiled._targetdescr.target_context
                ):
                    return False
                compiled.compile()
                self._compiled = compiled
            return True


class _Cache(FunctionCache):
    """Files named and keyed by the kernel's name: its folder stands for all sources, and closures are welcome."""

    def __init__(self, kernel: "Kernel") -> None:
        numba.config.CACHE_DIR = str(_folder())
        super().__init__(kernel.function)
        self._cache_file = _CheckedFile(str(_folder()), kernel.name, "")

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return sig, codegen.magic_tuple()

    def save_overload(self, sig: Any, data: Any) -> None:
        """Without a file for it, what was compiled serves this process."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _FAILURES.append(f"{_folder()}: {error.strerror or error}")


def _cache_of(kernel: "Kernel") -> Any:
    """Its files; none where there is no folder for any."""
    try:
        return _Cache(kernel)
    except (OSError, RuntimeError) as error:  # the latter is Numba's
        _FAILURES.append(str(error))
        return NullCache()


_FAILURES: list[str] = []


def not_kept() -> str | None:
    """Why compiled kernels could not be kept on the disk, the first time that this happened in this process."""
    return _FAILURES[0] if _FAILURES else None


@functools.cache
def _folder() -> Path:
    return cache_folder()


_DECLARED: list[Kernel] = []


def kernel(signature: Any, name: str = "") -> Callable[[Callable[..., Any]], Kernel]:
    """Declare a kernel with its Numba signature; by the function's own name, or by another that is unique as well."""

    def declare(function: Callable[..., Any]) -> Kernel:
        made = Kernel(function, signature, name or function.__name__)
        if any(made.name == other.name for other in _DECLARED):
            raise ValueError(f"two kernels are named {made.name}")
        _DECLARED.append(made)
        return made

    return declare


def declared() -> list[Kernel]:
    """Every kernel of the modules that have been imported, families included."""
    for make, domains in _FAMILIES:
        for arguments in itertools.product(*domains):
            make(*arguments)
    return list(_DECLARED)


_FAMILIES: list[tuple[Callable[..., Kernel], tuple[Iterable[Any], ...]]] = []


def family(*domains: Iterable[Any]) -> Callable[[Callable[..., Kernel]], Callable[..., Kernel]]:
    """For a function that declares a kernel for its arguments: once each, on demand. `domains`: all they can be."""

    def declare(make: Callable[..., Kernel]) -> Callable[..., Kernel]:
        made = functools.cache(make)
        _FAMILIES.append((made, domains))
        return made

    return declare


def helper(function: Callable[..., Any]) -> Helper:
    """A function that kernels and other helpers call directly."""
    return Helper(function, _OPTIONS)


def prepare(wanted: Iterable[Kernel], on_compile: Callable[[int, int], None] | None = None) -> None:
    """Load kernels from the disk, and compile those that are not there. `on_compile(done, all)` counts the latter."""
    missing = [k for k in dict.fromkeys(wanted) if not k.ready and not k.load()]
    for done, one in enumerate(missing):
        if on_compile:
            on_compile(done, len(missing))
        _ = one.address
    if missing and on_compile:
        on_compile(len(missing), len(missing))
