"""Machine code in this process: LLVM's loader, without the compiler."""

import functools
import threading
from typing import Any

import llvmlite.binding as llvm

from powerinfer_cli.system import windows
from powerinfer_cli.system.which import WINDOWS

__all__ = ["assembled", "load"]

_LOCK = threading.Lock()
_ENGINES: list[Any] = []  # what they have loaded lives as long as they do


def load(code: bytes, name: str) -> int:
    """The address of the function `name` of an object file; 0 where it has none."""
    with _LOCK:
        engine = next((one for one in _ENGINES if name not in one.names), None)
        if engine is None:
            engine = _Engine()
            _ENGINES.append(engine)
        return engine.add(code, name)


def assembled(module: llvm.ModuleRef) -> bytes:
    """The object file of a module in LLVM's own language."""
    return bytes(_target().create_target_machine(jit=True).emit_object(module))


class _Engine:
    """One space of names."""

    def __init__(self) -> None:
        machine = _target().create_target_machine(jit=True)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        self.names: set[str] = set()

    def add(self, code: bytes, name: str) -> int:
        self.names.add(name)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        return int(self._engine.get_function_address(name))


@functools.cache
def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if WINDOWS:  # LLVM itself looks in the C library alone
        for name, address in windows.native_calls().items():
            llvm.add_symbol(name, address)
    return llvm.Target.from_default_triple()
