"""Addresses as pointers, room on the stack, kernels called by address, memory asked for ahead."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from powerinfer_cli.kernels.jit import RUNG
from powerinfer_cli.kernels.simd.builders import (
    F32,
    HALF,
    I8,
    I16,
    I32,
    I64,
    F32x16,
    Vector,
    from_half,
    splatted,
    to_half,
)

__all__ = [
    "address_of",
    "calling",
    "f32",
    "float_of",
    "half",
    "i8",
    "i32",
    "i64",
    "prefetch",
    "stack_f32",
    "store_half",
    "u8",
    "u16",
]

_SECOND_CACHE = 2  # LLVM's word for it; 3 is the first, 0 none


def _caster(name: str, element: Any, doc: str) -> Any:
    def function(typing: Any, address: Any) -> Any:
        pointer = types.CPointer(element)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(pointer))

        return pointer(types.int64), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


f32 = _caster("f32", types.float32, "An address as a pointer to float32.")
i8 = _caster("i8", types.int8, "An address as a pointer to int8.")
u8 = _caster("u8", types.uint8, "An address as a pointer to uint8.")
u16 = _caster("u16", types.uint16, "An address as a pointer to uint16, which also holds float16 and bfloat16.")
i32 = _caster("i32", types.int32, "An address as a pointer to int32.")
i64 = _caster("i64", types.int64, "An address as a pointer to int64.")


@intrinsic
def address_of(typing: Any, pointer: Any) -> Any:
    """Where a pointer points."""
    return types.int64(pointer), lambda context, builder, sig, args: builder.ptrtoint(args[0], I64)


@intrinsic
def float_of(typing: Any, bits: Any) -> Any:
    """The float32 whose bits are the low half of an int64: how a float travels among an operation's numbers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(builder.trunc(args[0], I32), F32)

    return types.float32(types.int64), codegen


@intrinsic
def half(typing: Any, pointer: Any, offset: Any) -> Any:
    """The float16 at an element offset of a uint16 pointer, as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.load(builder.gep(args[0], [args[1]]), align=1)
        if RUNG.has_half:
            return builder.fpext(builder.bitcast(bits, HALF), F32)
        all_lanes = from_half(builder, splatted(builder, bits, Vector(I16, 16)))
        return builder.extract_element(all_lanes, I32(0))

    return types.float32(pointer, types.int64), codegen


@intrinsic
def store_half(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """A float32 rounded to float16 into a uint16 pointer."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if not RUNG.has_half:
            bits = builder.extract_element(to_half(builder, splatted(builder, args[2], F32x16)), I32(0))
        else:
            bits = builder.bitcast(builder.fptrunc(args[2], HALF), I16)
        builder.store(bits, builder.gep(args[0], [args[1]]), align=1)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.float32), codegen


@intrinsic(prefer_literal=True)
def stack_f32(typing: Any, n: Any) -> Any:
    """Room for n float32 until the kernel returns."""
    if not isinstance(n, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        room = cgutils.alloca_once(builder, ir.VectorType(F32, n.literal_value))
        return builder.bitcast(room, F32.as_pointer())

    return types.CPointer(types.float32)(n), codegen


def calling(returns: Any, *arguments: Any) -> Any:
    """An intrinsic that calls the kernel of this signature at an address: f(address, *arguments)."""
    names = ", ".join(f"a{i}" for i in range(len(arguments)))

    def typed(typing: Any, address: Any, *_: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = ir.FunctionType(context.get_value_type(returns), [context.get_value_type(a) for a in arguments])
            result = builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
            return context.get_dummy_value() if returns is types.void else result

        return returns(types.int64, *arguments), codegen

    scope: dict[str, Any] = {"typed": typed}
    exec(f"def call(typing, address, {names}): return typed(typing, address, {names})", scope)  # numba counts arguments
    return intrinsic(scope["call"])


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which may be any: nothing is read from where nothing is.

    It comes to the second cache of the core: that one waits for more lines at a time than the first, which would stall.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, I32(0), I32(_SECOND_CACHE), I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
