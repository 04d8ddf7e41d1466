"""Types of kernels' numbers, and signatures made of them: `types.void(types.int64, types.float32)`."""

import ctypes
from dataclasses import dataclass
from typing import Any

__all__ = ["Number", "Signature", "float32", "int64", "void"]


@dataclass(frozen=True)
class Number:
    """By Numba's name for it. `ctype`: how ctypes passes it, None for nothing; `llvm`: LLVM's name."""

    name: str
    ctype: Any
    llvm: str

    def __call__(self, *arguments: "Number") -> "Signature":
        return Signature(self, arguments)


@dataclass(frozen=True)
class Signature:
    """What a kernel takes and returns. Addresses are int64."""

    returns: Number
    arguments: tuple[Number, ...]

    def callable_at(self, address: int) -> Any:
        """The kernel at an address as a Python function, which runs without the interpreter's lock."""
        kind = ctypes.CFUNCTYPE(self.returns.ctype, *(argument.ctype for argument in self.arguments))
        return kind(address)


void = Number("void", None, "void")
int64 = Number("int64", ctypes.c_int64, "i64")
float32 = Number("float32", ctypes.c_float, "float")
