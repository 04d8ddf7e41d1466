"""One row times several tokens that lie anywhere: the inner loop of the sparse products.

Lanes are groups of columns: the chunk of 16 groups of a row or token is stored as (BYTES as int8 for integer formats)
  q [group / 4][16 groups][4 bytes]; float32 scales (d) [16]; float32 minima, or int32 -128 * sums of q, [16]
so group / 4 instructions leave 16 groups' sums side by side, and no sum across lanes is needed but the last.
As in `panels`, VNNI needs one unsigned side: rows hold w + 128, and sums start at -128 * sum of q.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from powerinfer_cli.kernels.jit import RUNG, Rung
from powerinfer_cli.kernels.simd import builders, dots

__all__ = ["AT_ONCE", "chunk_bytes", "dot_floats", "dot_records"]

AT_ONCE = 4  # tokens
FLIPPED = RUNG is Rung.VNNI
_I64 = ir.IntType(64)
_V, _W, _BYTES = builders.F32x16.llvm, builders.I32x16.llvm, builders.B64.llvm


def chunk_bytes(group: int) -> int:
    """Of 16 groups."""
    return 16 * group + 128


def _at(builder: Any, address: Any, offset: int, kind: ir.Type) -> Any:
    pointer = builder.inttoptr(builder.add(address, _I64(offset)), kind.as_pointer())
    return builder.load(pointer, align=4)


def _fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    return builders.call(builder, "llvm.fmuladd.v16f32", _V, x, y, z, flags=("contract",))


def _loop(builder: Any, steps: Any, n_sums: int, target: Any, body: Any) -> None:
    """Sums of 16 lanes: 0 at first, `steps` times body(i, sums), then to `target` one behind the other."""
    rooms = [cgutils.alloca_once_value(builder, ir.Constant(_V, None)) for _ in range(n_sums)]
    for room in rooms:
        builder.store(ir.Constant(_V, None), room)
    with cgutils.for_range(builder, steps) as loop:
        for room, value in zip(rooms, body(loop.index, [builder.load(r) for r in rooms]), strict=True):
            builder.store(value, room)
    for k, room in enumerate(rooms):
        where = builder.inttoptr(builder.add(target, _I64(64 * k)), _V.as_pointer())
        builder.store(builder.load(room), where, align=4)


def dot_records(group: int, has_min: bool) -> Any:
    """dot(row, chunks, x0, x1, x2, x3, sums): sums float32 [4][16], whose lanes' total is row . x.

    The row's minima must be divided by -128: they meet -128 * sums.
    """
    size, scales = chunk_bytes(group), 16 * group
    multiply = dots.dot_vnni if FLIPPED else dots.signed_dot

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        row, chunks, tokens, target = args[0], args[1], args[2:6], args[6]

        def body(i: Any, sums: list[Any]) -> list[Any]:
            step = builder.mul(i, _I64(size))
            w, xs = builder.add(row, step), [builder.add(x, step) for x in tokens]
            bias = [_at(builder, x, scales + 64, _W) for x in xs] if FLIPPED or has_min else []
            part = bias if FLIPPED else [ir.Constant(_W, None)] * AT_ONCE
            for k in range(group // 4):
                four = _at(builder, w, 64 * k, _BYTES)
                part = [
                    multiply(builder, p, four, _at(builder, x, 64 * k, _BYTES)) for p, x in zip(part, xs, strict=True)
                ]
            scale = _at(builder, w, scales, _V)
            low = _at(builder, w, scales + 64, _V) if has_min else None
            for t, x in enumerate(xs):
                d = _at(builder, x, scales, _V)
                sums[t] = _fma(builder, builder.sitofp(part[t], _V), builder.fmul(scale, d), sums[t])
                if has_min:
                    sums[t] = _fma(builder, builder.sitofp(bias[t], _V), builder.fmul(low, d), sums[t])
            return sums

        _loop(builder, chunks, AT_ONCE, target, body)
        return context.get_dummy_value()

    @intrinsic
    def dot(typing, row, chunks, x0, x1, x2, x3, sums):
        return types.void(*[types.int64] * 7), codegen

    return dot


@intrinsic
def dot_floats(typing, row, steps, x0, x1, x2, x3, sums):
    """The same for float32 rows and tokens, 32 columns a step; sums [4][16]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        row, steps, tokens, target = args[0], args[1], args[2:6], args[6]

        def body(i: Any, sums: list[Any]) -> list[Any]:
            step = builder.mul(i, _I64(128))
            w, xs = builder.add(row, step), [builder.add(x, step) for x in tokens]
            for half in (0, 64):
                weights = _at(builder, w, half, _V)
                sums = [_fma(builder, weights, _at(builder, x, half, _V), s) for x, s in zip(xs, sums, strict=True)]
            return sums

        _loop(builder, steps, AT_ONCE, target, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), codegen
