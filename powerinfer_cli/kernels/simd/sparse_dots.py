"""One row times several tokens that lie anywhere: the inner loop of the sparse products.

Lanes are groups of columns, in chunks as `kernels.sparse_dots` has them, so group / 4 instructions leave 16 groups'
sums side by side, and no sum across lanes is needed but the last.
In NumPy, with s, m, w of a row and d, q of token t as in `panels`, but in the shape [chunks, 16 groups(, group)]:
  dot_records:  sums[t] = (d[t] * (s * (q[t] * w).sum(axis=2) + m * q[t].sum(axis=2))).sum(axis=0)  # float32 [16]
  dot_floats:   sums[t] = (x[t] * row).reshape(-1, 16).sum(axis=0)
and row . x[t] is sums[t].sum().
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from powerinfer_cli.kernels.formats.chunks import AT_ONCE, chunk_bytes
from powerinfer_cli.kernels.simd import builders
from powerinfer_cli.kernels.simd.dots import group_products, start_of
from powerinfer_cli.kernels.simd.sums import load_at, summed

__all__ = ["dot_floats", "dot_records"]

_I64 = ir.IntType(64)
_V, _W, _BYTES = builders.F32x16.llvm, builders.I32x16.llvm, builders.B64.llvm


def _places(builder: Any, target: Any) -> dict[int, Any]:
    """The tokens' sums, one behind the other, 0 at first."""
    places = {t: builder.add(target, _I64(64 * t)) for t in range(AT_ONCE)}
    for place in places.values():
        builder.store(ir.Constant(_V, None), builder.inttoptr(place, _V.as_pointer()), align=4)
    return places


def dot_records(group: int, has_min: bool, bits: int) -> Any:
    """dot(row, chunks, x0, x1, x2, x3, sums): sums float32 [4][16], whose lanes' total is row . x.

    The row's minima must be divided by -128: they meet -128 * sums.
    """
    size, scales = chunk_bytes(group), 16 * group

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        row, chunks, tokens, target = args[0], args[1], args[2:6], args[6]

        def body(i: Any, sums: dict[int, Any]) -> dict[int, Any]:
            step = builder.mul(i, _I64(size))
            w, xs = builder.add(row, step), [builder.add(x, step) for x in tokens]
            bias = {t: load_at(builder, xs[t], scales + 64, _W) for t in sums}
            part = group_products(
                builder,
                {(t, 0): start_of(builder, bias[t], bits, has_min) for t in sums},
                group // 4,
                lambda v, k: load_at(builder, builder.add(w, builder.mul(k, _I64(64))), 0, _BYTES),
                lambda t, k: load_at(builder, builder.add(xs[t], builder.mul(k, _I64(64))), 0, _BYTES),
                bits,
            )
            scale, low = load_at(builder, w, scales, _V), load_at(builder, w, scales + 64, _V)
            result = {}
            for t, one in sums.items():
                d = load_at(builder, xs[t], scales, _V)
                value = builder.sitofp(part[t, 0], _V)
                result[t] = builders.fused(builder, value, builder.fmul(scale, d), one)
                if has_min:
                    shift = builder.fmul(low, d)
                    result[t] = builders.fused(builder, builder.sitofp(bias[t], _V), shift, result[t])
            return result

        summed(builder, chunks, _places(builder, target), body)
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

        def body(i: Any, sums: dict[int, Any]) -> dict[int, Any]:
            step = builder.mul(i, _I64(128))
            w, xs = builder.add(row, step), [builder.add(x, step) for x in tokens]
            for half in (0, 64):
                weights = load_at(builder, w, half, _V)
                sums = {t: builders.fused(builder, weights, load_at(builder, xs[t], half, _V), sums[t]) for t in sums}
            return sums

        summed(builder, steps, _places(builder, target), body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), codegen
