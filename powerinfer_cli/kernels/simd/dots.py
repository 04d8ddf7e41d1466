"""Dot products of bytes: the one place where the rungs differ."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from powerinfer_cli.kernels.jit import RUNG, Rung
from powerinfer_cli.kernels.simd.builders import B64, I16, I32, I32x16, call, constant, part_of

__all__ = ["dot_signed", "dot_unsigned", "dot_vnni", "signed_dot", "unsigned_dot"]


def dot_vnni(builder: Any, sums: Any, w: Any, x: Any) -> Any:
    """sums + w . x in groups of four; w 0..255, x signed."""
    i = I32x16.llvm  # the older of the two signatures that LLVM has had: newer LLVMs understand both
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", i, sums, builder.bitcast(w, i), builder.bitcast(x, i))


def _dot_avx2(builder: Any, sums: Any, w: Any, x: Any) -> Any:
    """The same for w 0..127 (or 128 with |x| <= 127): pairs of products fit 16 bits."""
    v16, v8 = ir.VectorType(I16, 16), ir.VectorType(I32, 8)
    parts = []
    for start in (0, 32):
        a, b = (part_of(builder, v, start, 32) for v in (w, x))
        pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", v16, a, b)
        parts.append(call(builder, "llvm.x86.avx2.pmadd.wd", v8, pairs, constant(I16, [1] * 16)))
    return builder.add(sums, builder.shuffle_vector(*parts, constant(I32, range(16))))


def _dot_any(builder: Any, sums: Any, w: Any, x: Any, *, signed: bool = False) -> Any:
    wide = ir.VectorType(I16, 64)
    products = builder.mul(builder.sext(w, wide) if signed else builder.zext(w, wide), builder.sext(x, wide))
    products = builder.sext(products, ir.VectorType(I32, 64))
    for part in range(4):
        lanes = constant(I32, range(part, 64, 4))
        sums = builder.add(sums, builder.shuffle_vector(products, products, lanes))
    return sums


def _absolute_bytes(builder: Any, v: Any) -> Any:
    kind = v.type
    negative = builder.icmp_signed("<", v, ir.Constant(kind, None))
    return builder.select(negative, builder.sub(ir.Constant(kind, None), v), v)


def unsigned_dot(builder: Any, sums: Any, w: Any, x: Any) -> Any:
    build = {Rung.VNNI: dot_vnni, Rung.AVX2: _dot_avx2, Rung.ANY: _dot_any}[RUNG]
    return build(builder, sums, w, x)


def signed_dot(builder: Any, sums: Any, w: Any, x: Any) -> Any:
    if RUNG is Rung.ANY:
        return _dot_any(builder, sums, w, x, signed=True)
    negative = builder.icmp_signed("<", w, ir.Constant(w.type, None))
    turned = builder.select(negative, builder.sub(ir.Constant(x.type, None), x), x)
    return unsigned_dot(builder, sums, _absolute_bytes(builder, w), turned)


def _dotter(name: str, doc: str, build: Callable[..., Any]) -> Any:
    def function(typing: Any, sums: Any, w: Any, x: Any) -> Any:
        return I32x16(I32x16, B64, B64), lambda context, builder, sig, args: build(builder, *args)

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


dot_unsigned = _dotter("dot_unsigned", "sums + w . x, four bytes a lane; w within 0..127, x signed.", unsigned_dot)
dot_signed = _dotter("dot_signed", "sums + w . x, four bytes a lane; w signed, x within -127..127.", signed_dot)
