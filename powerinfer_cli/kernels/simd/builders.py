"""What operations on vectors are built of: the vector types, and LLVM code for loads, stores, calls, conversions."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, register_model

from powerinfer_cli.kernels.jit import RUNG

__all__ = [
    "B16",
    "B32",
    "B64",
    "F32",
    "FAST",
    "HALF",
    "I8",
    "I16",
    "I32",
    "I64",
    "V16",
    "F32x16",
    "I32x16",
    "Vector",
    "added",
    "call",
    "constant",
    "from_half",
    "fused",
    "joined",
    "loaded",
    "multiplied",
    "part_of",
    "rolled",
    "splatted",
    "stored",
    "to_half",
    "to_nearest",
]

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F32, HALF = ir.FloatType(), ir.HalfType()


class Vector(types.Type):
    """n lanes of one LLVM type."""

    def __init__(self, lane: ir.Type, n: int) -> None:
        self.lane, self.n = lane, n
        self.llvm = ir.VectorType(lane, n)
        super().__init__(name=f"Vector({lane},{n})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


F32x16, I32x16 = Vector(F32, 16), Vector(I32, 16)
B64, B32, B16 = Vector(I8, 64), Vector(I8, 32), Vector(I8, 16)
V16 = F32x16.llvm
FAST = ("contract", "nsz", "arcp", "reassoc")
_FIXED = ("nsz",)  # Numba lets FAST be what has no flags


def _register_operators() -> None:
    """Vector op Vector of one type; for bytes and integers also Vector op constant."""
    table: list[tuple[Any, str | None, str]] = [
        (operator.add, "fadd", "add"),
        (operator.sub, "fsub", "sub"),
        (operator.mul, "fmul", "mul"),
        (operator.and_, None, "and_"),
        (operator.or_, None, "or_"),
        (operator.xor, None, "xor"),
        (operator.rshift, None, "lshr"),
        (operator.lshift, None, "shl"),
    ]
    for symbol, for_floats, for_integers in table:
        _register_operator(symbol, for_floats, for_integers)


def _register_operator(symbol: Any, for_floats: str | None, for_integers: str) -> None:
    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) != 2 or not isinstance(args[0], Vector):
                return None
            left, right = args
            if left == right or (isinstance(right, types.Integer) and left.lane != F32):
                return signature(left, *args) if for_floats or left.lane != F32 else None
            return None

    infer_global(symbol)(Template)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind, right = sig.args[0], args[1]
        if kind.lane == F32:
            return getattr(builder, str(for_floats))(args[0], right, flags=FAST)
        if not isinstance(sig.args[1], Vector):
            right = splatted(builder, builder.trunc(right, kind.lane), kind)
        return getattr(builder, for_integers)(args[0], right)

    lower_builtin(symbol, Vector, Vector)(lower)
    lower_builtin(symbol, Vector, types.Integer)(lower)


_register_operators()


def constant(lane: ir.Type, values: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(lane, len(values)), list(values))


def splatted(builder: Any, value: Any, kind: Vector) -> Any:
    one = builder.insert_element(ir.Constant(kind.llvm, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, kind.n), [0] * kind.n))


def call(builder: Any, name: str, returns: Any, *args: Any, flags: tuple[str, ...] = ()) -> Any:
    kind = ir.FunctionType(returns, [a.type for a in args])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, args, fastmath=flags)


def fused(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z of 16 float32, rounded once where the CPU can."""
    return call(builder, "llvm.fmuladd.v16f32", V16, x, y, z, flags=("contract",))


def added(builder: Any, x: Any, y: Any) -> Any:
    """x + y, whatever x and y are made of: in the order, and with the roundings, that are written."""
    return builder.fadd(x, y, flags=_FIXED)


def multiplied(builder: Any, x: Any, y: Any) -> Any:
    """x * y in the same way."""
    return builder.fmul(x, y, flags=_FIXED)


def part_of(builder: Any, v: Any, start: int, n: int) -> Any:
    return builder.shuffle_vector(v, v, constant(I32, range(start, start + n)))


def joined(builder: Any, parts: Sequence[Any]) -> Any:
    """Vectors of one length, 2**k of them, one behind the other."""
    while len(parts) > 1:
        lanes = constant(I32, range(2 * parts[0].type.count))
        parts = [builder.shuffle_vector(low, high, lanes) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def rolled(builder: Any, n: int, values: dict[Any, Any], body: Callable[[Any, dict[Any, Any]], dict[Any, Any]]) -> Any:
    """values = body(k, values) for all k < n, n > 0, as a loop that LLVM does not unroll: it would mix the steps, and
    need more registers than there are.
    """
    before, inside, behind = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(inside)
    builder.position_at_end(inside)
    k, current = builder.phi(I64), {key: builder.phi(value.type) for key, value in values.items()}
    result = body(k, current)
    following = builder.add(k, I64(1))
    branch = builder.cbranch(builder.icmp_signed("<", following, I64(n)), inside, behind)
    branch.set_metadata("llvm.loop", _not_unrolled(builder.module))
    for phi, first, later in [(k, I64(0), following), *((current[key], values[key], result[key]) for key in values)]:
        phi.add_incoming(first, before)
        phi.add_incoming(later, builder.block)
    builder.position_at_end(behind)
    return result


def _not_unrolled(module: Any) -> Any:
    """A loop's metadata, which begin with themselves."""
    wish = module.add_metadata(["llvm.loop.unroll.disable"])
    made = module.add_metadata([wish, wish])
    made.operands = (made, wish)
    return made


def loaded(builder: Any, pointer: Any, offset: Any, kind: ir.Type, align: int = 1) -> Any:
    at = builder.gep(pointer, [offset])
    return builder.load(builder.bitcast(at, kind.as_pointer()), align=align)


def stored(builder: Any, value: Any, pointer: Any, offset: Any, align: int = 1) -> None:
    at = builder.gep(pointer, [offset])
    builder.store(value, builder.bitcast(at, value.type.as_pointer()), align=align)


def from_half(builder: Any, bits: Any) -> Any:
    """16 float16, given as int16, to float32. The lowest rung has no instruction for it."""
    if RUNG.has_half:
        return builder.fpext(builder.bitcast(bits, ir.VectorType(HALF, 16)), V16)
    wide = builder.zext(bits, I32x16.llvm)
    size = builder.and_(wide, constant(I32, [0x7FFF] * 16))
    sign = builder.shl(builder.and_(wide, constant(I32, [0x8000] * 16)), constant(I32, [16] * 16))
    # The exponent in its new place is 112 too low; the product gets subnormal numbers right as well.
    number = builder.bitcast(builder.shl(size, constant(I32, [13] * 16)), V16)
    number = builder.bitcast(builder.fmul(number, ir.Constant(V16, [2.0**112] * 16)), I32x16.llvm)
    special = builder.icmp_unsigned(">=", size, constant(I32, [0x7C00] * 16))  # infinity and NaN
    number = builder.select(special, builder.or_(number, constant(I32, [0x7F800000] * 16)), number)
    return builder.bitcast(builder.or_(number, sign), V16)


def to_half(builder: Any, value: Any) -> Any:
    """16 float32 to float16 as int16, to the nearest, ties to even."""
    v16 = ir.VectorType(I16, 16)
    if RUNG.has_half:
        return builder.bitcast(builder.fptrunc(value, ir.VectorType(HALF, 16)), v16)
    bits = builder.bitcast(value, I32x16.llvm)
    size = builder.and_(bits, constant(I32, [0x7FFFFFFF] * 16))
    sign = builder.and_(builder.lshr(bits, constant(I32, [16] * 16)), constant(I32, [0x8000] * 16))
    odd = builder.and_(builder.lshr(size, constant(I32, [13] * 16)), constant(I32, [1] * 16))
    normal = builder.add(builder.add(size, odd), constant(I32, [0xFFF - (112 << 23)] * 16))
    normal = builder.lshr(normal, constant(I32, [13] * 16))
    # Next to 0.5 a float32's last bit is worth 2**-24, the least float16: the sum rounds as that one must.
    small = builder.fadd(builder.bitcast(size, V16), ir.Constant(V16, [0.5] * 16))
    small = builder.sub(builder.bitcast(small, I32x16.llvm), constant(I32, [126 << 23] * 16))
    result = builder.select(builder.icmp_unsigned("<", size, constant(I32, [113 << 23] * 16)), small, normal)
    too_large = builder.icmp_unsigned(">=", size, constant(I32, [143 << 23] * 16))
    result = builder.select(too_large, constant(I32, [0x7C00] * 16), result)
    no_number = builder.icmp_unsigned(">", size, constant(I32, [0x7F800000] * 16))
    result = builder.select(no_number, constant(I32, [0x7E00] * 16), result)
    return builder.trunc(builder.or_(result, sign), v16)


def to_nearest(builder: Any, value: Any) -> Any:
    """To the nearest integer, ties to even."""
    return builder.fptosi(call(builder, "llvm.nearbyint.v16f32", V16, value), I32x16.llvm)
