"""Semaphores of 32 bytes, as code: libc's own; on macOS, whose libc refuses those without a name, a pointer to one of
libdispatch; on Windows a handle. Neither of these two is given back: a team of threads has one for each. Tests run
both on Linux, with stand-ins for what they call; they were not run on macOS and Windows yet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from powerinfer_cli.kernels.simd.builders import I8, I32, I64, call
from powerinfer_cli.system.which import MACOS, WINDOWS

__all__ = ["DISPATCH", "KERNEL32", "LIBC", "SemaphoreCalls", "semaphore_calls"]

Code = Callable[[Any, Any], None]
_POINTER = I8.as_pointer()


@dataclass(frozen=True)
class SemaphoreCalls:
    """Each makes code, with a builder and a pointer to the semaphore. init: at 0. wait: can end for no reason."""

    init: Code
    post: Code
    wait: Code


def _libc(name: str, *extra: int) -> Code:
    def code(builder: Any, place: Any) -> None:
        call(builder, name, I32, place, *map(I32, extra))

    return code


LIBC = SemaphoreCalls(_libc("sem_init", 0, 0), _libc("sem_post"), _libc("sem_wait"))


def _kept(builder: Any, place: Any) -> Any:
    """Where a pointer or a handle lies in the semaphore's bytes."""
    return builder.bitcast(place, _POINTER.as_pointer())


def _made(name: str, *arguments: Any) -> Code:
    def code(builder: Any, place: Any) -> None:
        builder.store(call(builder, name, _POINTER, *arguments), _kept(builder, place))

    return code


def _with(name: str, result: Any, *arguments: Any) -> Code:
    def code(builder: Any, place: Any) -> None:
        call(builder, name, result, builder.load(_kept(builder, place)), *arguments)

    return code


DISPATCH = SemaphoreCalls(
    _made("dispatch_semaphore_create", I64(0)),
    _with("dispatch_semaphore_signal", I64),
    _with("dispatch_semaphore_wait", I64, I64(-1)),  # DISPATCH_TIME_FOREVER
)
_NOTHING = ir.Constant(_POINTER, None)
KERNEL32 = SemaphoreCalls(
    _made("CreateSemaphoreW", _NOTHING, I32(0), I32(0x7FFFFFFF), _NOTHING),
    _with("ReleaseSemaphore", I32, I32(1), _NOTHING),
    _with("WaitForSingleObject", I32, I32(-1)),  # INFINITE
)


def semaphore_calls() -> SemaphoreCalls:
    """This system's."""
    return KERNEL32 if WINDOWS else DISPATCH if MACOS else LIBC
