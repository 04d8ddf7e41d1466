"""Products of a few rows' quants with a few tokens' records: a sum for each row and token, held in registers.

R rows and T tokens have R * T sums, those of a row side by side. How many of each is part of their type, so that loops
over them are unrolled as they are compiled.

In NumPy, with sums [R, T, 16] and what lies `at` bytes behind each token's address:
  multiply:      sums + np.einsum("rlb,tlb->rtl", quants, x)    # quants [R, 16, 4], x int8 [T, 16, 4]
  scale:         room += sums * (scales[:, None] * d)           # scales [R, 16], d float32 [T, 16]
  lower:         room += sums_of_x * (mins[:, None] * d)        # mins [R, 16], sums_of_x int32 [T, 16]
  add_products:  sums + values * x                              # sums [T, 16], values [16], x float32 [T, 16]
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from powerinfer_cli.kernels.simd import builders
from powerinfer_cli.kernels.simd.builders import I64, V16, I32x16, added, loaded, multiplied, stored
from powerinfer_cli.kernels.simd.dots import dotted
from powerinfer_cli.kernels.simd.numbers import reduced
from powerinfer_cli.kernels.simd.sums import load_at

__all__ = [
    "add_products",
    "lower",
    "multiplying",
    "neighbours",
    "scale",
    "starting",
    "store_sums",
    "tokens_at",
    "zeros",
]


class Several(types.Type):
    """n values of an LLVM type."""

    def __init__(self, one: ir.Type, n: int) -> None:
        self.n, self.llvm = n, ir.ArrayType(one, n)
        super().__init__(name=f"Several({one},{n})")


@register_model(Several)
class _SeveralModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Several) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


def collected(builder: Any, values: list[Any]) -> Any:
    result = ir.Constant(ir.ArrayType(values[0].type, len(values)), ir.Undefined)
    for i, value in enumerate(values):
        result = builder.insert_value(result, value, i)
    return result


def tokens_at(n: int) -> Any:
    """at(pointer): the first n int64 that a pointer has."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return collected(builder, [builder.load(builder.gep(args[0], [I64(i)])) for i in range(n)])

    @intrinsic
    def first_addresses(typing, pointer):
        return Several(I64, n)(pointer), codegen

    return first_addresses


def neighbours(n: int) -> Any:
    """neighbours(address): n addresses, 64 bytes apart."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return collected(builder, [builder.add(args[0], I64(64 * i)) for i in range(n)])

    @intrinsic
    def neighbouring(typing, address):
        return Several(I64, n)(types.int64), codegen

    return neighbouring


@intrinsic
def add_products(typing: Any, sums: Any, values: Any, xs: Any, at: Any) -> Any:
    """sums + values * each token's float32 there."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pairs = zip(*(cgutils.unpack_tuple(builder, args[i]) for i in (0, 2)), strict=True)
        loads = ((one, load_at(builder, builder.add(x, args[3]), 0, V16)) for one, x in pairs)
        return collected(builder, [builders.fused(builder, args[1], x, one) for one, x in loads])

    return sums(sums, values, xs, types.int64), codegen


def store_sums(n: int) -> Any:
    """store(a, b, c, d, out): out[t], float32, = the sum over the lanes of (a + b) + (c + d)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        four = (cgutils.unpack_tuple(builder, value) for value in args[:4])
        for t, (a, b, c, d) in enumerate(zip(*four, strict=True)):
            both = added(builder, added(builder, a, b), added(builder, c, d))
            one = reduced(builder, both, added)
            builder.store(one, builder.gep(args[4], [I64(t)]))
        return context.get_dummy_value()

    @intrinsic
    def store(typing, a, b, c, d, out):
        return types.void(a, b, c, d, out), codegen

    return store


def zeros(n: int) -> Any:
    """zeros(): n vectors of 0.0."""
    kind = Several(V16, n)

    @intrinsic
    def zero_vectors(typing):
        return kind(), lambda context, builder, sig, args: ir.Constant(kind.llvm, None)

    return zero_vectors


def starting(rows: int, offset: int) -> Any:
    """start(xs, at): -offset * the tokens' int32 there, for each of so many rows."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        starts = []
        for x in cgutils.unpack_tuple(builder, args[0]):
            sums = load_at(builder, builder.add(x, args[1]), 0, I32x16.llvm)
            product = builder.mul(sums, builders.constant(builders.I32, [offset] * 16))
            starts.append(builder.sub(ir.Constant(I32x16.llvm, None), product))
        return collected(builder, starts * rows)

    @intrinsic
    def start(typing, xs, at):
        return Several(I32x16.llvm, rows * xs.n)(xs, types.int64), codegen

    return start


def multiplying(signed: bool) -> Any:
    """multiply(sums, quants, xs, at): sums and the products of each row's 64 quants with each token's bytes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, quants, xs = (cgutils.unpack_tuple(builder, value) for value in args[:3])
        made = []
        for t, address in enumerate(xs):
            x = load_at(builder, builder.add(address, args[3]), 0, builders.B64.llvm)
            made.append([dotted(builder, sums[r * len(xs) + t], w, x, signed) for r, w in enumerate(quants)])
        return collected(builder, [one[r] for r in range(len(quants)) for one in made])

    @intrinsic
    def multiply(typing, sums, quants, xs, at):
        return sums(sums, quants, xs, types.int64), codegen

    return multiply


def _add_scaled(
    builder: Any, sums: list[Any], factors: list[Any], xs: list[Any], at: Any, room: Any, place: Any
) -> None:
    """To the R * T vectors from a place of a pointer on: sums * (each row's factors * what each token has there)."""
    for t, x in enumerate(xs):
        d = load_at(builder, builder.add(x, at), 0, V16)
        for r, factor in enumerate(factors):
            i = r * len(xs) + t
            where = builder.add(place, I64(16 * i))
            before = loaded(builder, room, where, V16, 4)
            stored(builder, builders.fused(builder, sums[i], multiplied(builder, factor, d), before), room, where, 4)


@intrinsic
def scale(typing: Any, sums: Any, scales: Any, xs: Any, at: Any, room: Any, place: Any) -> Any:
    """room[place:] += sums * (scales * d); room a pointer to float32 [R, T, 16]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, scales, xs = (cgutils.unpack_tuple(builder, value) for value in args[:3])
        _add_scaled(builder, [builder.sitofp(one, V16) for one in sums], scales, xs, *args[3:])
        return context.get_dummy_value()

    return types.void(sums, scales, xs, types.int64, room, types.int64), codegen


@intrinsic
def lower(typing: Any, mins: Any, xs: Any, at_sums: Any, at: Any, room: Any, place: Any) -> Any:
    """room[place:] += sums of the inputs * (mins * d)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mins, xs = (cgutils.unpack_tuple(builder, value) for value in args[:2])
        sums = [load_at(builder, builder.add(x, args[2]), 0, I32x16.llvm) for x in xs]
        _add_scaled(builder, [builder.sitofp(one, V16) for one in sums] * len(mins), mins, xs, *args[3:])
        return context.get_dummy_value()

    return types.void(mins, xs, types.int64, types.int64, room, types.int64), codegen
