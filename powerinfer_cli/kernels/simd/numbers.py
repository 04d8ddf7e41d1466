"""Vectors from numbers, arithmetic on lanes, and numbers from vectors."""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd.builders import (
    B16,
    B64,
    I8,
    I32,
    V16,
    F32x16,
    I32x16,
    added,
    call,
    constant,
    fused,
    multiplied,
    splatted,
    to_nearest,
)

__all__ = [
    "absolute",
    "first",
    "first_or",
    "fma",
    "largest",
    "maximum",
    "minimum",
    "nearest",
    "plus",
    "power_of_two",
    "product",
    "reciprocal",
    "splat",
    "splat_i32",
    "table16",
    "to_f32",
    "total",
    "unsigned_f32",
    "where_greater",
    "where_positive",
    "zero",
    "zero64",
    "zero_i32",
]


@intrinsic
def reciprocal(typing: Any, x: Any) -> Any:
    """1 / x, lane by lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fdiv(ir.Constant(V16, [1.0] * 16), args[0])

    return F32x16(F32x16), codegen


@intrinsic
def zero(typing: Any) -> Any:
    """16 times 0.0."""
    return F32x16(), lambda context, builder, sig, args: ir.Constant(V16, None)


@intrinsic
def zero_i32(typing: Any) -> Any:
    """16 times 0."""
    return I32x16(), lambda context, builder, sig, args: ir.Constant(I32x16.llvm, None)


@intrinsic
def zero64(typing: Any) -> Any:
    """64 bytes of 0."""
    return B64(), lambda context, builder, sig, args: ir.Constant(B64.llvm, None)


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """16 times a float32."""
    return F32x16(types.float32), lambda context, builder, sig, args: splatted(builder, args[0], F32x16)


@intrinsic
def splat_i32(typing: Any, value: Any) -> Any:
    """16 times an integer's lower 32 bits."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return splatted(builder, builder.trunc(args[0], I32), I32x16)

    return I32x16(types.int64), codegen


def table16(values: Sequence[int]) -> Any:
    """An intrinsic without arguments: these 16 bytes, for `lookup`."""

    def function(typing: Any) -> Any:
        return B16(), lambda context, builder, sig, args: constant(I8, [v & 255 for v in values])

    return intrinsic(function)


@intrinsic
def unsigned_f32(typing: Any, value: Any) -> Any:
    """16 bytes, unsigned, as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sitofp(builder.zext(args[0], I32x16.llvm), V16)

    return F32x16(B16), codegen


@intrinsic
def to_f32(typing: Any, value: Any) -> Any:
    """int32 lanes as float32."""
    return F32x16(I32x16), lambda context, builder, sig, args: builder.sitofp(args[0], V16)


@intrinsic
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z."""
    return F32x16(F32x16, F32x16, F32x16), lambda context, builder, sig, args: fused(builder, *args)


@intrinsic
def plus(typing: Any, x: Any, y: Any) -> Any:
    """x + y, where x and y may be sums: they stay what they are. Of x + y the compiler may change the order."""
    return F32x16(F32x16, F32x16), lambda context, builder, sig, args: added(builder, *args)


@intrinsic
def product(typing: Any, x: Any, y: Any) -> Any:
    """x * y in the same way."""
    return F32x16(F32x16, F32x16), lambda context, builder, sig, args: multiplied(builder, *args)


def reduced(builder: Any, value: Any, combine: Callable[[Any, Any, Any], Any]) -> Any:
    """One number of 16 lanes, in halves: lane 0 with lane 8, and so on."""
    n = 16
    while n > 1:
        n //= 2
        low = builder.shuffle_vector(value, value, constant(I32, range(n)))
        high = builder.shuffle_vector(value, value, constant(I32, range(n, 2 * n)))
        value = combine(builder, low, high)
    return builder.extract_element(value, I32(0))


def _reducer(name: str, doc: str, combine: Callable[[Any, Any, Any], Any]) -> Any:
    def function(typing: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return reduced(builder, args[0], combine)

        return types.float32(F32x16), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


def _maximum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


total = _reducer("total", "The sum of 16 lanes, always in the same order.", added)
largest = _reducer("largest", "The largest of 16 lanes.", _maximum)


@intrinsic
def maximum(typing: Any, x: Any, y: Any) -> Any:
    """The larger, lane by lane."""
    return F32x16(F32x16, F32x16), lambda context, builder, sig, args: _maximum(builder, *args)


@intrinsic
def minimum(typing: Any, x: Any, y: Any) -> Any:
    """The smaller, lane by lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return F32x16(F32x16, F32x16), codegen


@intrinsic
def where_greater(typing: Any, a: Any, b: Any, x: Any, y: Any) -> Any:
    """x where a > b, else y, lane by lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args[:2]), *args[2:])

    return F32x16(F32x16, F32x16, F32x16, F32x16), codegen


@intrinsic
def absolute(typing: Any, x: Any) -> Any:
    """|x|, lane by lane."""
    return F32x16(F32x16), lambda context, builder, sig, args: call(builder, "llvm.fabs.v16f32", V16, args[0])


@intrinsic
def power_of_two(typing: Any, n: Any) -> Any:
    """2**n for whole n within -126..127."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        exponent = builder.add(to_nearest(builder, args[0]), constant(I32, [127] * 16))
        return builder.bitcast(builder.shl(exponent, constant(I32, [23] * 16)), V16)

    return F32x16(F32x16), codegen


@intrinsic
def nearest(typing: Any, x: Any) -> Any:
    """The nearest whole number, ties to even."""
    return F32x16(F32x16), lambda context, builder, sig, args: call(builder, "llvm.nearbyint.v16f32", V16, args[0])


@intrinsic
def where_positive(typing: Any, x: Any, there: Any, other: Any) -> Any:
    """Lanes of `there` where x is above 0, and of `other` elsewhere."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        positive = builder.fcmp_ordered(">", args[0], ir.Constant(V16, None))
        return builder.select(positive, args[1], args[2])

    return F32x16(F32x16, F32x16, F32x16), codegen


@intrinsic
def first_or(typing: Any, x: Any, count: Any, other: Any) -> Any:
    """The first `count` lanes of x, and of `other` the rest."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        limit = builder.trunc(args[1], I32)
        valid = builder.icmp_signed("<", constant(I32, range(16)), splatted(builder, limit, I32x16))
        return builder.select(valid, args[0], args[2])

    return F32x16(F32x16, types.int64, F32x16), codegen


@helper
def first(x, count):
    """The first `count` lanes, and 0 in the others, whatever was in them."""
    return first_or(x, count, zero())
