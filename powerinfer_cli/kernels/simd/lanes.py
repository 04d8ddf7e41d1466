"""Rearranging lanes and bytes."""

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
    F32,
    I8,
    I32,
    I64,
    V16,
    F32x16,
    I32x16,
    call,
    constant,
    joined,
    loaded,
    part_of,
    splatted,
    stored,
)

__all__ = ["byte", "doubled", "groups_of_16", "groups_of_32", "join", "lanes_of_16", "lanes_of_32", "lookup"]


@intrinsic
def join(typing: Any, low: Any, high: Any) -> Any:
    """Two byte vectors of one length, one behind the other."""
    kind = {B32: B64, B16: B32}[low]

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.shuffle_vector(*args, constant(I32, range(kind.n)))

    return kind(low, low), codegen


@intrinsic(prefer_literal=True)
def byte(typing: Any, value: Any, k: Any) -> Any:
    """Byte k of each four, unsigned, times 256**k (but for k = 3, which stays as it is), as float32.

    So each takes two instructions; a factor of 2**-8k, which is exact, belongs to what they are multiplied with.
    """
    if not isinstance(k, types.IntegerLiteral):
        return None
    place = k.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = builder.bitcast(args[0], I32x16.llvm)
        if place == 3:
            words = builder.lshr(words, constant(I32, [24] * 16))
        else:
            words = builder.and_(words, constant(I32, [255 << 8 * place] * 16))
        return builder.sitofp(words, V16)

    return F32x16(B64, k), codegen


def _rearranged(builder: Any, vectors: list[Any], pick: Callable[[int], int]) -> list[Any]:
    """Lanes of vectors of 16: lane i of all of them becomes what was lane pick(i). Two sources for each vector."""
    made = []
    for v in range(len(vectors)):
        lanes = [pick(16 * v + i) for i in range(16)]
        sources = sorted({lane // 16 for lane in lanes})
        index = [lane % 16 + 16 * sources.index(lane // 16) for lane in lanes]
        made.append(builder.shuffle_vector(vectors[sources[0]], vectors[sources[-1]], constant(I32, index)))
    return made


def _turner(name: str, doc: str, group: int, *, back: bool) -> Any:
    def function(typing: Any, source: Any, target: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            n, half = group // 4, 2 * group
            vectors = [loaded(builder, args[0], I64(64 * v), I32x16.llvm) for v in range(n)]
            for _ in range(n.bit_length() - 1):  # in each round the lanes' numbers are rotated by one bit
                vectors = _rearranged(
                    builder, vectors, lambda i: i // 2 + i % 2 * half if back else i % half * 2 + i // half
                )
            for v, vector in enumerate(vectors):
                stored(builder, vector, args[1], I64(64 * v))
            return context.get_dummy_value()

        return types.void(source, target), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


lanes_of_32 = _turner("lanes_of_32", "16 groups of 32 bytes: word k of group j becomes word 16k + j.", 32, back=False)
lanes_of_16 = _turner("lanes_of_16", "16 groups of 16 bytes: word k of group j becomes word 16k + j.", 16, back=False)
groups_of_32 = _turner("groups_of_32", "The inverse of lanes_of_32.", 32, back=True)
groups_of_16 = _turner("groups_of_16", "The inverse of lanes_of_16.", 16, back=True)


@intrinsic
def doubled(typing: Any, pointer: Any, offset: Any) -> Any:
    """Eight float32 at an offset, each twice in a row."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = loaded(builder, args[0], args[1], ir.VectorType(F32, 8))
        return builder.shuffle_vector(value, value, constant(I32, [i // 2 for i in range(16)]))

    return F32x16(pointer, types.int64), codegen


def _lookup_any(builder: Any, table: Any, index: Any) -> Any:
    """Without an instruction for it: each bit of an index chooses between neighbours, from the lowest on."""
    entries = [splatted(builder, builder.extract_element(table, I32(i)), B16) for i in range(16)]
    found = []
    for at in range(0, 64, 16):  # as registers may be: all at a time would not fit into them
        here, left = part_of(builder, index, at, 16), entries
        for bit in range(4):
            chosen = builder.and_(here, constant(I8, [1 << bit] * 16))
            mask = builder.sext(builder.icmp_unsigned("!=", chosen, constant(I8, [0] * 16)), B16.llvm)
            pairs = zip(left[::2], left[1::2], strict=True)
            left = [builder.xor(a, builder.and_(mask, builder.xor(a, b))) for a, b in pairs]
        found.append(left[0])
    return joined(builder, found)


_LOOKUPS = {  # instructions, and how many bytes they take
    Rung.VNNI: ("llvm.x86.avx512.pshuf.b.512", 64),
    Rung.AVX_VNNI: ("llvm.x86.avx2.pshuf.b", 32),
    Rung.AVX2: ("llvm.x86.avx2.pshuf.b", 32),
    Rung.I8MM: ("llvm.aarch64.neon.tbl1.v16i8", 16),
    Rung.NEON: ("llvm.aarch64.neon.tbl1.v16i8", 16),
}


@intrinsic
def lookup(typing: Any, table: Any, index: Any) -> Any:
    """table[index] for each byte of a B64; table B16, index 0..15."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        table, index = args
        if RUNG is Rung.ANY:
            return _lookup_any(builder, table, index)
        name, n = _LOOKUPS[RUNG]
        tables = builder.shuffle_vector(table, table, constant(I32, [i % 16 for i in range(n)]))
        parts = [call(builder, name, tables.type, tables, part_of(builder, index, at, n)) for at in range(0, 64, n)]
        return joined(builder, parts)

    return B64(B16, B64), codegen
