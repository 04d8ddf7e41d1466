"""Names that only a compiler needs: modules which import Numba are imported when the first kernel is compiled.

Kernels that were compiled before are loaded without it, which saves half a second and 70 MB at every start.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["DeferredCall", "DeferredImport", "HelperSource", "deferring", "exact_helper", "helper"]


class _Callable:
    def __call__(self, *arguments: Any) -> "DeferredCall":
        return DeferredCall(self, arguments)


@dataclass(frozen=True, eq=False)
class DeferredImport(_Callable):
    """A name of a module."""

    module: str
    name: str

    def find(self) -> Any:
        """Import the module; what it has by this name."""
        return getattr(importlib.import_module(self.module), self.name)


@dataclass(frozen=True, eq=False)
class DeferredCall(_Callable):
    """What such a function returns."""

    function: Any
    arguments: tuple[Any, ...]


class HelperSource:
    """A function that kernels and other helpers call. It becomes part of those who call it.

    exact: every sum and product is rounded as it is written, see `kernel`.
    """

    def __init__(self, function: Callable[..., Any], exact: bool = False) -> None:
        self.function, self.exact = function, exact
        self.__name__, self.__doc__ = function.__name__, function.__doc__


def helper(function: Callable[..., Any]) -> Any:
    """Declare a function that kernels and other helpers call directly."""
    return HelperSource(function)


def exact_helper(function: Callable[..., Any]) -> Any:
    """The same for kernels that are exact."""
    return HelperSource(function, exact=True)


def deferring(package: str, rooms: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose modules have these names, each room's separated by spaces."""
    modules = {name: f"{package}.{room}" for room, names in rooms.items() for name in names.split()}
    made = {name: DeferredImport(module, name) for name, module in modules.items()}

    def find(name: str) -> DeferredImport:
        try:
            return made[name]
        except KeyError:
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None

    return find
