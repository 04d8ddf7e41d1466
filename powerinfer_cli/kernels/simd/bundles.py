"""Products of a bundle's quants with T tokens. Lanes are rows, so that a token's number is the same in all of them.

In NumPy, with sums and results [T, 16], and addresses where each token has a number:
  start:  -offset * sums_of_x[:, None]                     # int32 [T]
  meet:   sums + np.einsum("lb,tb->tl", quants, x)         # quants [16, 4], x int8 [T, 4], 32 bytes apart
  scale:  results + sums * (scales * d[:, None])           # scales [16], d float32 [T]
  lower:  results + mins * (sums_of_x * d)[:, None]
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from powerinfer_cli.kernels.simd import builders
from powerinfer_cli.kernels.simd.builders import F32, I32, I64, V16, F32x16, I32x16, multiplied, splatted
from powerinfer_cli.kernels.simd.dots import dotted
from powerinfer_cli.kernels.simd.sums import load_at
from powerinfer_cli.kernels.simd.tokens import Several, collected

__all__ = [
    "add_bundle",
    "lowering_bundle",
    "meeting_bundle",
    "scale_bundle",
    "scale_first",
    "scale_second",
    "starting_bundle",
    "store_bundle",
]

_QUANTS = 32  # bytes from one token's to the next one's


def _number(builder: Any, address: Any, t: int, kind: Any, step: int = 4) -> Any:
    """Token t's number, in all lanes."""
    lanes = F32x16 if kind == F32 else I32x16
    return splatted(builder, load_at(builder, address, t * step, kind), lanes)


def starting_bundle(n: int, offset: int) -> Any:
    """start(sums_of_x): of n tokens; of more than one their numbers are -offset * sums already."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if offset == 0:
            return ir.Constant(Several(I32x16.llvm, n).llvm, None)
        if n > 1:
            return collected(builder, [_number(builder, args[0], t, I32) for t in range(n)])
        return collected(
            builder, [builder.mul(_number(builder, args[0], 0, I32), builders.constant(I32, [-offset] * 16))]
        )

    @intrinsic
    def start(typing, sums_of_x):
        return Several(I32x16.llvm, n)(types.int64), codegen

    return start


def meeting_bundle(signed: bool) -> Any:
    """meet(sums, quants, x)"""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        made = []
        for t, one in enumerate(cgutils.unpack_tuple(builder, args[0])):
            x = builder.bitcast(_number(builder, args[2], t, I32, _QUANTS), builders.B64.llvm)
            made.append(dotted(builder, one, args[1], x, signed))
        return collected(builder, made)

    @intrinsic
    def meet(typing, sums, quants, x):
        return sums(sums, quants, types.int64), codegen

    return meet


@intrinsic
def scale_bundle(typing: Any, results: Any, sums: Any, scales: Any, d: Any) -> Any:
    """results + sums * (scales * d)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        made = []
        for t, (result, one) in enumerate(zip(*(cgutils.unpack_tuple(builder, a) for a in args[:2]), strict=True)):
            scale = multiplied(builder, args[2], _number(builder, args[3], t, F32))
            made.append(builders.fused(builder, builder.sitofp(one, V16), scale, result))
        return collected(builder, made)

    return results(results, sums, scales, types.int64), codegen


@intrinsic
def scale_first(typing: Any, sums: Any, scales: Any) -> Any:
    """sums * scales."""
    kind = Several(V16, sums.n)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found = (builder.sitofp(one, V16) for one in cgutils.unpack_tuple(builder, args[0]))
        return collected(builder, [multiplied(builder, one, args[1]) for one in found])

    return kind(sums, scales), codegen


@intrinsic
def scale_second(typing: Any, scaled: Any, sums: Any, scales: Any) -> Any:
    """scaled + sums * scales."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pairs = zip(*(cgutils.unpack_tuple(builder, a) for a in args[:2]), strict=True)
        return collected(builder, [builders.fused(builder, builder.sitofp(b, V16), args[2], a) for a, b in pairs])

    return scaled(scaled, sums, scales), codegen


@intrinsic
def add_bundle(typing: Any, results: Any, scaled: Any, d: Any) -> Any:
    """results + scaled * d."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pairs = enumerate(zip(*(cgutils.unpack_tuple(builder, a) for a in args[:2]), strict=True))
        return collected(
            builder, [builders.fused(builder, b, _number(builder, args[2], t, F32), a) for t, (a, b) in pairs]
        )

    return results(results, scaled, types.int64), codegen


def lowering_bundle(record: bool) -> Any:
    """lower(results, sums_of_x, mins, d); record: sums are int32, else their products with d."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        made = []
        for t, result in enumerate(cgutils.unpack_tuple(builder, args[0])):
            one = _number(builder, args[1], t, I32 if record else F32)
            if record:
                one = multiplied(builder, builder.sitofp(one, V16), _number(builder, args[3], t, F32))
            made.append(builders.fused(builder, args[2], one, result))
        return collected(builder, made)

    @intrinsic
    def lower(typing, results, sums_of_x, mins, d):
        return results(results, types.int64, mins, types.int64), codegen

    return lower


@intrinsic
def store_bundle(typing: Any, results: Any, address: Any) -> Any:
    """Each token's 16 numbers, one token behind the other."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for t, one in enumerate(cgutils.unpack_tuple(builder, args[0])):
            pointer = builder.inttoptr(builder.add(args[1], I64(64 * t)), V16.as_pointer())
            builder.store(one, pointer, align=4)
        return context.get_dummy_value()

    return types.void(results, types.int64), codegen
