"""What the inner loops of products share: operands at addresses, and sums that a loop adds to."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from powerinfer_cli.kernels.simd import builders

__all__ = ["load_at", "summed"]

_V = builders.F32x16.llvm


def load_at(builder: Any, address: Any, offset: int, kind: ir.Type) -> Any:
    """A value from an address and so many bytes."""
    pointer = builder.inttoptr(builder.add(address, ir.IntType(64)(offset)), kind.as_pointer())
    return builder.load(pointer, align=1)


def summed(
    builder: Any, steps: Any, places: dict[Any, Any], body: Callable[[Any, dict[Any, Any]], dict[Any, Any]]
) -> None:
    """`steps` times sums = body(i, sums). `places`: addresses of the sums, 16 float32 each, before and after."""
    pointers = {key: builder.inttoptr(address, _V.as_pointer()) for key, address in places.items()}
    rooms = {key: cgutils.alloca_once(builder, _V) for key in places}
    for key, room in rooms.items():
        builder.store(builder.load(pointers[key], align=4), room)
    with cgutils.for_range(builder, steps) as loop:
        sums = body(loop.index, {key: builder.load(room) for key, room in rooms.items()})
        for key, room in rooms.items():
            builder.store(sums[key], room)
    for key, room in rooms.items():
        builder.store(builder.load(room), pointers[key], align=4)
