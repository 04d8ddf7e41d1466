"""What threads need between them, and of the system. (All that is no instruction is its C library's, or kernel32's.)"""

import mmap
import platform
import time
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from powerinfer_cli.kernels.simd.builders import I8, I32, I64, call
from powerinfer_cli.kernels.simd.semaphores import semaphore_calls

__all__ = [
    "atomic_load",
    "atomic_store",
    "compare_exchange",
    "fetch_add",
    "nanoseconds",
    "pause",
    "sem_init",
    "sem_post",
    "sem_wait",
    "will_need",
]


@intrinsic
def fetch_add(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """Add to an int64 as one step; what it was before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.gep(args[0], [args[1]]), args[2], "seq_cst")

    return types.int64(pointer, types.int64, types.int64), codegen


@intrinsic
def compare_exchange(typing: Any, pointer: Any, offset: Any, old: Any, new: Any) -> Any:
    """Write `new` over an int64 if it is `old`, as one step; whether it was."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]])
        return builder.extract_value(builder.cmpxchg(place, args[2], args[3], "seq_cst", "seq_cst"), 1)

    return types.boolean(pointer, types.int64, types.int64, types.int64), codegen


@intrinsic
def atomic_load(typing: Any, pointer: Any, offset: Any) -> Any:
    """An int64 that other threads write."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(builder.gep(args[0], [args[1]]), "seq_cst", 8)

    return types.int64(pointer, types.int64), codegen


@intrinsic
def atomic_store(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """An int64 that other threads read."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store_atomic(args[2], builder.gep(args[0], [args[1]]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.int64), codegen


@intrinsic
def pause(typing: Any) -> Any:
    """Tell the CPU that this is a waiting loop."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if platform.machine() in ("x86_64", "AMD64"):
            call(builder, "llvm.x86.sse2.pause", ir.VoidType())
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def nanoseconds(typing: Any) -> Any:
    """A clock that only goes forward."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        room = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))  # seconds, and nanoseconds of the next one
        if not hasattr(time, "CLOCK_MONOTONIC"):  # Windows
            return _by_counter(builder, *(cgutils.gep_inbounds(builder, room, 0, i) for i in range(2)))
        call(builder, "clock_gettime", I32, I32(time.CLOCK_MONOTONIC), room)
        seconds, part = (builder.load(cgutils.gep_inbounds(builder, room, 0, i)) for i in range(2))
        return builder.add(builder.mul(seconds, I64(10**9)), part)

    return types.int64(), codegen


def _by_counter(builder: Any, count: Any, rate: Any) -> Any:
    """Windows' ticks, as nanoseconds. count, rate: addresses of room for the ticks, and for how many make a second."""
    call(builder, "QueryPerformanceCounter", I32, count)
    call(builder, "QueryPerformanceFrequency", I32, rate)
    ticks, second = builder.load(count), builder.load(rate)
    whole, part = builder.udiv(ticks, second), builder.urem(ticks, second)
    return builder.add(builder.mul(whole, I64(10**9)), builder.udiv(builder.mul(part, I64(10**9)), second))


@intrinsic
def will_need(typing: Any, address: Any, n_bytes: Any) -> Any:
    """Ask the system to read so many bytes of a mapped file, from the start of a page on, before they are needed."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if hasattr(mmap, "MADV_WILLNEED"):
            pointer = builder.inttoptr(args[0], I8.as_pointer())
            call(builder, "madvise", I32, pointer, args[1], I32(mmap.MADV_WILLNEED))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def _of_address(name: str, doc: str, code: Callable[[Any, Any], None]) -> Any:
    """An intrinsic of an address. code: makes it, with a builder and a pointer to bytes."""

    def function(typing: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            code(builder, builder.inttoptr(args[0], I8.as_pointer()))
            return context.get_dummy_value()

        return types.void(types.int64), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


_SEMAPHORES = semaphore_calls()
sem_init = _of_address("sem_init", "Make the 32 bytes at an address a semaphore, at 0.", _SEMAPHORES.init)
sem_post = _of_address("sem_post", "Wake one sleeper at a semaphore, now or as soon as it sleeps.", _SEMAPHORES.post)
sem_wait = _of_address("sem_wait", "Sleep at a semaphore. Can wake for no reason.", _SEMAPHORES.wait)
