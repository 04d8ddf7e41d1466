"""From a kernel's Python to machine code, by Numba. Imported only when something has to be compiled.

Numba makes of any function machine code of its own, and one more for each constant that it is called with: step(0),
step(1) and so on. Nobody calls our helpers but kernels, with which they are optimised and made into machine code
anyway; so they are translated to LLVM's language once for each combination of types, and no further. That is half of
the time. Of a kernel only the function that others call by address remains, which raises nothing.
"""

import functools
import types as python
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.dispatcher import _FunctionCompiler  # type: ignore[attr-defined]  # Numba has no types
from numba.core.registry import CPUDispatcher, cpu_target
from numba.core.types.misc import unliteral

from powerinfer_cli.kernels.jit.deferred import DeferredCall, DeferredImport, HelperSource
from powerinfer_cli.kernels.jit.rung import TARGET_CPU
from powerinfer_cli.kernels.jit.types import Number, Signature

__all__ = ["compiled", "real", "translated"]

OURS = __name__.partition(".")[0]

if TARGET_CPU is not None:
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = TARGET_CPU.name, TARGET_CPU.features


def _options(exact: bool) -> dict[str, Any]:
    """error_model: no checks for division by zero.
    fastmath: a*b+c in one step and sums in vectors, but NaN and infinity stay.
    """
    return {
        "nopython": True,
        "error_model": "numpy",
        "fastmath": set() if exact else {"contract", "nsz", "arcp", "reassoc"},
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }


def compiled(function: Callable[..., Any], signature: Signature, name: str, exact: bool = False) -> bytes:
    """An object file whose one function, `name`, is this one."""
    return _library(function, signature, name, exact).object_code()


def translated(function: Callable[..., Any], signature: Signature, name: str, exact: bool = False) -> str:
    """LLVM code of it, not optimised yet: the rung's, which another CPU than this one may run."""
    return _library(function, signature, name, exact).text()


def _library(function: Callable[..., Any], signature: Signature, name: str, exact: bool) -> "_Library":
    arguments = tuple(real(argument) for argument in signature.arguments)
    compiler = _FunctionCompiler(_with_real_names(function), cpu_target, _options(exact), {}, pipeline_class=_Compiler)
    found = compiler.compile(arguments, real(signature.returns))
    found.library.keep_only(found.fndesc.mangled_name, signature, name)
    library: _Library = found.library
    return library


def real(value: Any) -> Any:
    """What Numba is to see for a name in a kernel."""
    if isinstance(value, DeferredImport | DeferredCall | HelperSource):
        return _made(value)
    if isinstance(value, Number):
        return getattr(numba.types, value.name)
    if isinstance(value, python.FunctionType) and value.__module__.partition(".")[0] == OURS:
        return _made(value)  # a plain function that Python calls as well
    return value


@functools.cache
def _made(value: Any) -> Any:
    if isinstance(value, DeferredImport):
        found = value.find()
        return _made(found) if isinstance(found, HelperSource) else found
    if isinstance(value, DeferredCall):
        return real(value.function)(*map(real, value.arguments))
    if isinstance(value, HelperSource):
        return Helper(_with_real_names(value.function), value.exact)
    return Helper(_with_real_names(value))


def _with_real_names(function: Any) -> Any:
    """The same function, in a world in which names stand for what Numba is to see."""
    world = function.__globals__
    names = {name: real(world[name]) for name in _names(function.__code__) if name in world}
    names |= {name: world[name] for name in ("__builtins__", "__name__") if name in world}
    cells = tuple(python.CellType(real(cell.cell_contents)) for cell in function.__closure__ or ())
    made = python.FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    made.__module__, made.__qualname__ = function.__module__, function.__qualname__
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _names(code: python.CodeType) -> set[str]:
    inner = (one for one in code.co_consts if isinstance(one, python.CodeType))
    return set(code.co_names).union(*map(_names, inner))


class Helper(CPUDispatcher):
    """As `numba.njit` makes them, for kernels only."""

    def __init__(self, function: Callable[..., Any], exact: bool = False) -> None:
        super().__init__(function, targetoptions=_options(exact), pipeline_class=_Compiler)

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """Constants are of the type that variables have."""
        plain = {name: unliteral(kind) for name, kind in kws.items()}
        return super().get_call_template(tuple(map(unliteral, args)), plain)


class _Compiler(Compiler):
    def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
        super().__init__(typing, target, library or _Library(target.codegen(), "helper"), *rest)


class _Library(JITCodeLibrary):
    """Code to link with, neither optimised nor compiled, unless it is asked for its object code."""

    def finalize(self) -> None:
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    def keep_only(self, mangled: str, signature: Signature, name: str) -> None:
        """Of the function `mangled`, as `name`, without Numba's way to return and to raise; nothing else is seen."""
        self._final_module.link_in(llvm.parse_assembly(_entry(mangled, signature, name)))
        for function in self._final_module.functions:
            if not function.is_declaration and function.name != name:
                function.linkage = "internal"

    def text(self) -> str:
        return str(self._final_module)

    def object_code(self) -> bytes:
        self._optimize_final_module()
        self._final_module.verify()
        return bytes(self._codegen._tm.emit_object(self._final_module))

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


def _entry(mangled: str, signature: Signature, name: str) -> str:
    """LLVM code of a C function that calls Numba's: result and exception by pointer, then the arguments."""
    kinds = [argument.llvm for argument in signature.arguments]
    nothing = signature.returns.ctype is None
    result = "ptr" if nothing else signature.returns.llvm
    given = ", ".join(f"{kind} %a{i}" for i, kind in enumerate(kinds))
    passed = ", ".join(["ptr %result", "ptr %exception", *(f"{kind} %a{i}" for i, kind in enumerate(kinds))])
    end = "ret void" if nothing else f"%found = load {result}, ptr %result\nret {result} %found"
    return f"""
declare i32 @"{mangled}"({", ".join(["ptr", "ptr", *kinds])})
define {signature.returns.llvm} @"{name}"({given}) nounwind {{
%result = alloca {result}
%exception = alloca ptr
store ptr null, ptr %exception
%status = call i32 @"{mangled}"({passed})
{end}
}}
"""
