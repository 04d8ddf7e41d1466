"""Kernels: how they are declared, and how they come into this process, from the disk or from the compiler."""

import functools
import itertools
import threading
from collections.abc import Callable, Iterable
from typing import Any

from powerinfer_cli.kernels.jit import files, machine_code
from powerinfer_cli.kernels.jit.types import Signature

__all__ = ["Kernel", "declared", "family", "kernel", "prepare"]


class Kernel:
    """A function of C numbers and addresses. `address` compiles it, or loads it from the disk, on first use."""

    def __init__(self, function: Callable[..., Any], signature: Signature, name: str, exact: bool = False) -> None:
        self.function, self.signature, self.name, self.exact = function, signature, name, exact
        self._address = 0
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Compiled or loaded in this process."""
        return self._address != 0

    def load(self) -> bool:
        """Get it from the disk, if it is there and undamaged."""
        with self._lock:
            if not self._address:
                code = files.load_code(self.name)
                self._address = 0 if code is None else machine_code.load(code, self.name)
            return self.ready

    @property
    def address(self) -> int:
        if not self._address and not self.load():
            self._compile()
        return self._address

    @functools.cached_property
    def call(self) -> Any:
        """As a Python function of integers and floats; it runs without the interpreter's lock."""
        return self.signature.callable_at(self.address)

    def _compile(self) -> None:
        from powerinfer_cli.kernels.jit.compiler import compiled

        with self._lock:
            if not self._address:
                code = compiled(self.function, self.signature, self.name, self.exact)
                files.save_code(self.name, code)
                self._address = machine_code.load(code, self.name)


_DECLARED: dict[str, Kernel] = {}


def kernel(signature: Signature, name: str = "", *, exact: bool = False) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare a kernel with its signature; by the function's own name, or by another that is unique as well.

    exact: sums in the order, and with the roundings, that the function has: the same bits on every CPU. Its helpers are
    exact ones.
    """

    def declare(function: Callable[..., Any]) -> Kernel:
        made = Kernel(function, signature, name or function.__name__, exact)
        if made.name in _DECLARED:
            raise ValueError(f"two kernels are named {made.name}")
        _DECLARED[made.name] = made
        return made

    return declare


def declared() -> list[Kernel]:
    """Every kernel of the modules that have been imported, families included."""
    for make, domains in _FAMILIES:
        for arguments in itertools.product(*domains):
            make(*arguments)
    return list(_DECLARED.values())


_FAMILIES: list[tuple[Callable[..., Kernel], tuple[Iterable[Any], ...]]] = []


def family(*domains: Iterable[Any]) -> Callable[[Callable[..., Kernel]], Callable[..., Kernel]]:
    """For a function that declares a kernel for its arguments: once each, on demand. `domains`: all they can be."""

    def declare(make: Callable[..., Kernel]) -> Callable[..., Kernel]:
        made = functools.cache(make)
        _FAMILIES.append((made, domains))
        return made

    return declare


def prepare(wanted: Iterable[Kernel], on_compile: Callable[[int, int], None] | None = None) -> None:
    """Load kernels from the disk, and compile those that are not there. `on_compile(done, all)` counts the latter."""
    missing = [k for k in dict.fromkeys(wanted) if not k.ready and not k.load()]
    for done, one in enumerate(missing):
        if on_compile:
            on_compile(done, len(missing))
        _ = one.address
    if missing and on_compile:
        on_compile(len(missing), len(missing))
