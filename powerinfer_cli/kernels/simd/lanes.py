"""Rearranging lanes and bytes."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from powerinfer_cli.kernels.jit import RUNG, Rung
from powerinfer_cli.kernels.simd.builders import (
    B16,
    B32,
    B64,
    F32,
    I32,
    V16,
    F32x16,
    I32x16,
    call,
    constant,
    loaded,
    part_of,
    splatted,
)

__all__ = ["doubled", "four", "halves", "join", "lookup", "pair", "quarter", "quarter_unsigned"]


@intrinsic
def join(typing: Any, low: Any, high: Any) -> Any:
    """Two byte vectors of one length, one behind the other."""
    kind = {B32: B64, B16: B32}[low]

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.shuffle_vector(*args, constant(I32, range(kind.n)))

    return kind(low, low), codegen


def _quarter(name: str, doc: str, signed: bool) -> Any:
    def function(typing: Any, value: Any, k: Any) -> Any:
        if not isinstance(k, types.IntegerLiteral):
            return None
        start = 16 * k.literal_value

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            part = part_of(builder, args[0], start, 16)
            wide = builder.sext(part, I32x16.llvm) if signed else builder.zext(part, I32x16.llvm)
            return builder.sitofp(wide, V16)

        return F32x16(B64, k), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(prefer_literal=True)(function)


quarter = _quarter("quarter", "Bytes 16k to 16k+15, signed, as float32.", True)
quarter_unsigned = _quarter("quarter_unsigned", "Bytes 16k to 16k+15, unsigned, as float32.", False)


@intrinsic(prefer_literal=True)
def pair(typing: Any, scales: Any, k: Any) -> Any:
    """Lanes 2k and 2k+1, eight times each."""
    if not isinstance(k, types.IntegerLiteral):
        return None
    a = 2 * k.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.shuffle_vector(args[0], args[0], constant(I32, [a] * 8 + [a + 1] * 8))

    return F32x16(F32x16, k), codegen


@intrinsic(prefer_literal=True)
def four(typing: Any, scales: Any, k: Any) -> Any:
    """Lanes 4k to 4k+3, four times each."""
    if not isinstance(k, types.IntegerLiteral):
        return None
    a = 4 * k.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.shuffle_vector(args[0], args[0], constant(I32, [a + i // 4 for i in range(16)]))

    return F32x16(F32x16, k), codegen


@intrinsic
def halves(typing: Any, low: Any, high: Any) -> Any:
    """One float32 eight times, then the other eight times."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        low, high = (splatted(builder, a, F32x16) for a in args)
        return builder.shuffle_vector(low, high, constant(I32, [*range(8), *range(16, 24)]))

    return F32x16(types.float32, types.float32), codegen


@intrinsic
def doubled(typing: Any, pointer: Any, offset: Any) -> Any:
    """Eight float32 at an offset, each twice in a row."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = loaded(builder, args[0], args[1], ir.VectorType(F32, 8))
        return builder.shuffle_vector(value, value, constant(I32, [i // 2 for i in range(16)]))

    return F32x16(pointer, types.int64), codegen


@intrinsic
def lookup(typing: Any, table: Any, index: Any) -> Any:
    """table[index] for each byte of a B64; table B16, index 0..15."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        table, index = args
        if RUNG is Rung.ANY:
            result = ir.Constant(B64.llvm, ir.Undefined)
            for lane in range(64):
                entry = builder.extract_element(table, builder.zext(builder.extract_element(index, I32(lane)), I32))
                result = builder.insert_element(result, entry, I32(lane))
            return result
        n = 64 if RUNG is Rung.VNNI else 32
        name = "llvm.x86.avx512.pshuf.b.512" if RUNG is Rung.VNNI else "llvm.x86.avx2.pshuf.b"
        tables = builder.shuffle_vector(table, table, constant(I32, [i % 16 for i in range(n)]))
        parts = [call(builder, name, tables.type, tables, part_of(builder, index, at, n)) for at in range(0, 64, n)]
        return parts[0] if n == 64 else builder.shuffle_vector(*parts, constant(I32, range(64)))

    return B64(B16, B64), codegen
