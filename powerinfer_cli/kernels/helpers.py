"""Functions that become part of the kernels which call them, and how they are compiled: once, and only half.

Numba makes of any function machine code of its own, and one more for each constant that it is called with: step(0),
step(1) and so on. Nobody calls ours but kernels, with which they are optimised and made into machine code anyway; so
they are translated to LLVM's language once for each combination of types, and no further. That is half of the time.
"""

from collections.abc import Callable
from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.registry import CPUDispatcher
from numba.core.types.misc import unliteral

__all__ = ["Helper"]


class Helper(CPUDispatcher):
    """As `numba.njit` makes them, for kernels only. `options`: Numba's."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        super().__init__(function, targetoptions={**options, **wrappers}, pipeline_class=_Compiler)

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """Constants are of the type that variables have."""
        plain = {name: unliteral(kind) for name, kind in kws.items()}
        return super().get_call_template(tuple(map(unliteral, args)), plain)


class _Compiler(Compiler):
    def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
        super().__init__(typing, target, library or _Library(target.codegen(), "helper"), *rest)


class _Library(JITCodeLibrary):
    """Code to link with, neither optimised nor compiled."""

    def finalize(self) -> None:
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """There is no machine code; 0 is what Numba gives for a function without wrapper."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        """Where Numba would put what Python objects the code refers to: it has none, and no place for them."""
        return _NoObjects


class _NoObjects:
    @staticmethod
    def set_env(name: str, objects: Any) -> None:
        pass
