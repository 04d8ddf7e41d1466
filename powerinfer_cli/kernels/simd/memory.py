"""Vectors from and to memory."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from powerinfer_cli.kernels.jit import RUNG, Rung
from powerinfer_cli.kernels.simd.builders import (
    B16,
    B32,
    B64,
    I8,
    I16,
    I32,
    I64,
    V16,
    F32x16,
    I32x16,
    Vector,
    constant,
    from_half,
    loaded,
    splatted,
    stored,
    to_half,
    to_nearest,
)

__all__ = [
    "at_least",
    "bits64",
    "load16",
    "load32",
    "load64",
    "load_bf16",
    "load_f16",
    "load_f32",
    "load_i8",
    "load_i32",
    "load_powers",
    "load_u8",
    "lowest_bit",
    "quad",
    "splat_f16",
    "store16",
    "store32",
    "store64",
    "store_bits",
    "store_f16",
    "store_f32",
    "store_i8",
    "store_i16",
    "store_i32",
    "two_f16",
]


def _loader(kind: Vector, name: str, doc: str, widen: Callable[[Any, Any], Any] | None = None, raw: Any = None) -> Any:
    def function(typing: Any, pointer: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            value = loaded(builder, args[0], args[1], raw or kind.llvm)
            return widen(builder, value) if widen else value

        return kind(pointer, types.int64), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


def _from_bfloat(builder: Any, bits: Any) -> Any:
    wide = builder.zext(bits, I32x16.llvm)
    return builder.bitcast(builder.shl(wide, constant(I32, [16] * 16)), V16)


_16 = 16
load_f32 = _loader(F32x16, "load_f32", "16 float32.")
load_i32 = _loader(I32x16, "load_i32", "16 int32.")
load64 = _loader(B64, "load64", "64 bytes.")
load32 = _loader(B32, "load32", "32 bytes.")
load16 = _loader(B16, "load16", "16 bytes.")
load_f16 = _loader(
    F32x16,
    "load_f16",
    "16 float16 in a uint16 pointer, widened.",
    from_half,
    ir.VectorType(I16, _16),
)
load_bf16 = _loader(F32x16, "load_bf16", "16 bfloat16, widened.", _from_bfloat, ir.VectorType(I16, _16))
load_i8 = _loader(
    F32x16, "load_i8", "16 int8, widened to float32.", lambda b, v: b.sitofp(b.sext(v, I32x16.llvm), V16), B16.llvm
)
load_u8 = _loader(
    F32x16, "load_u8", "16 uint8, widened to float32.", lambda b, v: b.sitofp(b.zext(v, I32x16.llvm), V16), B16.llvm
)


@intrinsic
def splat_f16(typing: Any, pointer: Any, offset: Any) -> Any:
    """The float16 at a byte offset of a uint8 pointer, widened, 16 times."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return from_half(builder, splatted(builder, loaded(builder, args[0], args[1], I16), Vector(I16, 16)))

    return F32x16(pointer, types.int64), codegen


@intrinsic
def quad(typing: Any, pointer: Any, offset: Any) -> Any:
    """Four bytes at a byte offset, 16 times."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(splatted(builder, loaded(builder, args[0], args[1], I32), I32x16), B64.llvm)

    return B64(pointer, types.int64), codegen


@intrinsic
def load_powers(typing: Any, pointer: Any, offset: Any) -> Any:
    """16 bytes at an offset as 2**(byte - 128)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        e = builder.zext(loaded(builder, args[0], args[1], B16.llvm), I32x16.llvm)
        bits = builder.shl(builder.sub(e, constant(I32, [1] * 16)), constant(I32, [23] * 16))
        tiny = builder.select(  # below the least exponent of a normal number
            builder.icmp_unsigned("==", e, constant(I32, [0] * 16)),
            constant(I32, [1 << 21] * 16),
            constant(I32, [1 << 22] * 16),
        )
        bits = builder.select(builder.icmp_unsigned("<", e, constant(I32, [2] * 16)), tiny, bits)
        return builder.bitcast(bits, V16)

    return F32x16(pointer, types.int64), codegen


@intrinsic
def two_f16(typing: Any, pointer: Any, offset: Any) -> Any:
    """Two float16 at an offset, widened, each eight times."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        two = loaded(builder, args[0], args[1], ir.VectorType(I16, 2))
        return from_half(builder, builder.shuffle_vector(two, two, constant(I32, [0] * 8 + [1] * 8)))

    return F32x16(pointer, types.int64), codegen


@intrinsic
def bits64(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """The 64 bits at a byte offset, lowest first, as bytes: `value` for a 1, 0 for a 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = splatted(builder, builder.trunc(args[2], I8), B64)
        if RUNG is Rung.VNNI:  # which has registers for masks
            mask = builder.bitcast(loaded(builder, args[0], args[1], I64), ir.VectorType(ir.IntType(1), 64))
        else:
            eight = loaded(builder, args[0], args[1], ir.VectorType(I8, 8))
            each = builder.shuffle_vector(eight, eight, constant(I32, [i // 8 for i in range(64)]))
            bit = builder.and_(each, constant(I8, [1 << i % 8 for i in range(64)]))
            mask = builder.icmp_unsigned("!=", bit, ir.Constant(B64.llvm, None))
        return builder.select(mask, value, ir.Constant(B64.llvm, None))

    return B64(pointer, types.int64, types.int64), codegen


def _storer(kind: Vector, name: str, doc: str, narrow: Callable[[Any, Any], Any] | None = None) -> Any:
    def function(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            stored(builder, narrow(builder, args[2]) if narrow else args[2], args[0], args[1])
            return context.get_dummy_value()

        return types.void(pointer, types.int64, kind), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


store_f32 = _storer(F32x16, "store_f32", "16 float32.")
store_i32 = _storer(I32x16, "store_i32", "16 int32.")
store64 = _storer(B64, "store64", "64 bytes.")
store32 = _storer(B32, "store32", "32 bytes.")
store16 = _storer(B16, "store16", "16 bytes.")
store_f16 = _storer(
    F32x16,
    "store_f16",
    "16 float32 rounded to float16.",
    to_half,
)
store_bits = _storer(
    B64,
    "store_bits",
    "One bit for each of 64 bytes, lowest first: 1 where the byte is not 0. The counterpart of `bits64`.",
    lambda b, v: b.bitcast(b.icmp_unsigned("!=", v, ir.Constant(B64.llvm, None)), I64),
)


store_i8 = _storer(
    F32x16, "store_i8", "16 floats within -128..127 as int8, nearest.", lambda b, v: b.trunc(to_nearest(b, v), B16.llvm)
)

store_i16 = _storer(
    F32x16,
    "store_i16",
    "16 floats within -32768..32767 as int16, nearest, in a uint16 pointer.",
    lambda b, v: b.trunc(to_nearest(b, v), ir.VectorType(I16, _16)),
)


@intrinsic
def at_least(typing: Any, pointer: Any, offset: Any, limits: Any, limit: Any) -> Any:
    """Of 16 float32 at a pointer's offset, which are >= those at another's: bit i for lane i. Anything is >= -inf."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values, least = loaded(builder, args[0], args[1], V16), loaded(builder, args[2], args[3], V16)
        lowest = ir.Constant(V16, [float("-inf")] * 16)
        found = builder.or_(builder.fcmp_ordered(">=", values, least), builder.fcmp_ordered("==", least, lowest))
        return builder.zext(builder.bitcast(found, I16), I64)

    return types.int64(pointer, types.int64, limits, types.int64), codegen


@intrinsic
def lowest_bit(typing: Any, bits: Any) -> Any:
    """The place of the lowest 1 in an int64 that is not 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen
