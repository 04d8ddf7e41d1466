"""Vector values for kernels: LLVM vectors as Numba types, with +, -, *, &, |, >>, << and the operations below.

F32x16, I32x16: 16 lanes. B64, B32, B16: so many bytes. Pointers come from addresses (`f32(address)`), index like 1-D
arrays, and offsets count elements. Wider than the CPU's registers is no problem: LLVM splits.
"""

import operator
import platform
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

from powerinfer_cli.kernels.jit import RUNG, Rung, helper

_I8, _I16, _I32, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_F32, _HALF = ir.FloatType(), ir.HalfType()


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


F32x16, I32x16 = Vector(_F32, 16), Vector(_I32, 16)
B64, B32, B16 = Vector(_I8, 64), Vector(_I8, 32), Vector(_I8, 16)
_V16 = F32x16.llvm
_FAST = ("contract", "nsz", "arcp", "reassoc")


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
            if left == right or (isinstance(right, types.Integer) and left.lane != _F32):
                return signature(left, *args) if for_floats or left.lane != _F32 else None
            return None

    infer_global(symbol)(Template)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind, right = sig.args[0], args[1]
        if kind.lane == _F32:
            return getattr(builder, str(for_floats))(args[0], right, flags=_FAST)
        if not isinstance(sig.args[1], Vector):
            right = _splat(builder, builder.trunc(right, kind.lane), kind)
        return getattr(builder, for_integers)(args[0], right)

    lower_builtin(symbol, Vector, Vector)(lower)
    lower_builtin(symbol, Vector, types.Integer)(lower)


_register_operators()


def _constant(lane: ir.Type, values: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(lane, len(values)), list(values))


def _splat(builder: Any, value: Any, kind: Vector) -> Any:
    one = builder.insert_element(ir.Constant(kind.llvm, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_I32, kind.n), [0] * kind.n))


def _call(builder: Any, name: str, returns: Any, *args: Any, flags: tuple[str, ...] = ()) -> Any:
    kind = ir.FunctionType(returns, [a.type for a in args])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, args, fastmath=flags)


def _half_of(builder: Any, v: Any, start: int, n: int) -> Any:
    return builder.shuffle_vector(v, v, _constant(_I32, range(start, start + n)))


def _load(builder: Any, pointer: Any, offset: Any, kind: ir.Type, align: int = 1) -> Any:
    at = builder.gep(pointer, [offset])
    return builder.load(builder.bitcast(at, kind.as_pointer()), align=align)


def _store(builder: Any, value: Any, pointer: Any, offset: Any, align: int = 1) -> None:
    at = builder.gep(pointer, [offset])
    builder.store(value, builder.bitcast(at, value.type.as_pointer()), align=align)


def _from_half(builder: Any, bits: Any) -> Any:
    """16 float16, given as int16, to float32. The lowest rung has no instruction for it."""
    if RUNG is not Rung.ANY:
        return builder.fpext(builder.bitcast(bits, ir.VectorType(_HALF, 16)), _V16)
    wide = builder.zext(bits, I32x16.llvm)
    size = builder.and_(wide, _constant(_I32, [0x7FFF] * 16))
    sign = builder.shl(builder.and_(wide, _constant(_I32, [0x8000] * 16)), _constant(_I32, [16] * 16))
    # The exponent in its new place is 112 too low; the product gets subnormal numbers right as well.
    number = builder.bitcast(builder.shl(size, _constant(_I32, [13] * 16)), _V16)
    number = builder.bitcast(builder.fmul(number, ir.Constant(_V16, [2.0**112] * 16)), I32x16.llvm)
    special = builder.icmp_unsigned(">=", size, _constant(_I32, [0x7C00] * 16))  # infinity and NaN
    number = builder.select(special, builder.or_(number, _constant(_I32, [0x7F800000] * 16)), number)
    return builder.bitcast(builder.or_(number, sign), _V16)


def _to_half(builder: Any, value: Any) -> Any:
    """16 float32 to float16 as int16, to the nearest, ties to even."""
    v16 = ir.VectorType(_I16, 16)
    if RUNG is not Rung.ANY:
        return builder.bitcast(builder.fptrunc(value, ir.VectorType(_HALF, 16)), v16)
    bits = builder.bitcast(value, I32x16.llvm)
    size = builder.and_(bits, _constant(_I32, [0x7FFFFFFF] * 16))
    sign = builder.and_(builder.lshr(bits, _constant(_I32, [16] * 16)), _constant(_I32, [0x8000] * 16))
    odd = builder.and_(builder.lshr(size, _constant(_I32, [13] * 16)), _constant(_I32, [1] * 16))
    normal = builder.add(builder.add(size, odd), _constant(_I32, [0xFFF - (112 << 23)] * 16))
    normal = builder.lshr(normal, _constant(_I32, [13] * 16))
    # Next to 0.5 a float32's last bit is worth 2**-24, the least float16: the sum rounds as that one must.
    small = builder.fadd(builder.bitcast(size, _V16), ir.Constant(_V16, [0.5] * 16))
    small = builder.sub(builder.bitcast(small, I32x16.llvm), _constant(_I32, [126 << 23] * 16))
    result = builder.select(builder.icmp_unsigned("<", size, _constant(_I32, [113 << 23] * 16)), small, normal)
    too_large = builder.icmp_unsigned(">=", size, _constant(_I32, [143 << 23] * 16))
    result = builder.select(too_large, _constant(_I32, [0x7C00] * 16), result)
    no_number = builder.icmp_unsigned(">", size, _constant(_I32, [0x7F800000] * 16))
    result = builder.select(no_number, _constant(_I32, [0x7E00] * 16), result)
    return builder.trunc(builder.or_(result, sign), v16)


# --- addresses ---------------------------------------------------------------------------------------------------


def _caster(name: str, element: Any, doc: str) -> Any:
    def function(typing: Any, address: Any) -> Any:
        pointer = types.CPointer(element)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(pointer))

        return pointer(types.int64), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


f32 = _caster("f32", types.float32, "An address as a pointer to float32.")
i8 = _caster("i8", types.int8, "An address as a pointer to int8.")
u8 = _caster("u8", types.uint8, "An address as a pointer to uint8.")
u16 = _caster("u16", types.uint16, "An address as a pointer to uint16, which also holds float16 and bfloat16.")
i32 = _caster("i32", types.int32, "An address as a pointer to int32.")
i64 = _caster("i64", types.int64, "An address as a pointer to int64.")


@intrinsic
def address_of(typing: Any, pointer: Any) -> Any:
    """Where a pointer points."""
    return types.int64(pointer), lambda context, builder, sig, args: builder.ptrtoint(args[0], _I64)


@intrinsic
def float_of(typing: Any, bits: Any) -> Any:
    """The float32 whose bits are the low half of an int64: how a float travels among an operation's numbers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(builder.trunc(args[0], _I32), _F32)

    return types.float32(types.int64), codegen


@intrinsic
def half(typing: Any, pointer: Any, offset: Any) -> Any:
    """The float16 at an element offset of a uint16 pointer, as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.load(builder.gep(args[0], [args[1]]), align=1)
        if RUNG is not Rung.ANY:
            return builder.fpext(builder.bitcast(bits, _HALF), _F32)
        all_lanes = _from_half(builder, _splat(builder, bits, Vector(_I16, 16)))
        return builder.extract_element(all_lanes, _I32(0))

    return types.float32(pointer, types.int64), codegen


@intrinsic
def store_half(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """A float32 rounded to float16 into a uint16 pointer."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if RUNG is Rung.ANY:
            bits = builder.extract_element(_to_half(builder, _splat(builder, args[2], F32x16)), _I32(0))
        else:
            bits = builder.bitcast(builder.fptrunc(args[2], _HALF), _I16)
        builder.store(bits, builder.gep(args[0], [args[1]]), align=1)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.float32), codegen


@intrinsic(prefer_literal=True)
def stack_f32(typing: Any, n: Any) -> Any:
    """Room for n float32 until the kernel returns."""
    if not isinstance(n, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        room = cgutils.alloca_once(builder, ir.VectorType(_F32, n.literal_value))
        return builder.bitcast(room, _F32.as_pointer())

    return types.CPointer(types.float32)(n), codegen


def calling(returns: Any, *arguments: Any) -> Any:
    """An intrinsic that calls the kernel of this signature at an address: f(address, *arguments)."""
    names = ", ".join(f"a{i}" for i in range(len(arguments)))

    def typed(typing: Any, address: Any, *_: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = ir.FunctionType(context.get_value_type(returns), [context.get_value_type(a) for a in arguments])
            result = builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
            return context.get_dummy_value() if returns is types.void else result

        return returns(types.int64, *arguments), codegen

    scope: dict[str, Any] = {"typed": typed}
    exec(f"def call(typing, address, {names}): return typed(typing, address, {names})", scope)  # numba counts arguments
    return intrinsic(scope["call"])


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which may be any: nothing is read from where nothing is."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], _I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def reciprocal(typing: Any, x: Any) -> Any:
    """1 / x, lane by lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fdiv(ir.Constant(_V16, [1.0] * 16), args[0])

    return F32x16(F32x16), codegen


# --- between threads ---------------------------------------------------------------------------------------------


@intrinsic
def fetch_add(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """Add to an int64 as one step; what it was before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.gep(args[0], [args[1]]), args[2], "seq_cst")

    return types.int64(pointer, types.int64, types.int64), codegen


@intrinsic
def atomic_load(typing: Any, pointer: Any, offset: Any) -> Any:
    """An int64 that other threads write."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(builder.gep(args[0], [args[1]]), "seq_cst", 8)

    return types.int64(pointer, types.int64), codegen


@intrinsic
def atomic_store(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """An int64 that other threads read."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store_atomic(args[2], builder.gep(args[0], [args[1]]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.int64), codegen


@intrinsic
def pause(typing: Any) -> Any:
    """Tell the CPU that this is a waiting loop."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if platform.machine() in ("x86_64", "AMD64"):
            _call(builder, "llvm.x86.sse2.pause", ir.VoidType())
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def yield_core(typing: Any) -> Any:
    """Let another thread have this core, if one wants it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _call(builder, "sched_yield", _I32)
        return context.get_dummy_value()

    return types.void(), codegen


def _libc(name: str, doc: str, *extra: int) -> Any:
    """A libc function of an address and constant integers."""

    def function(typing: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], _I8.as_pointer())
            _call(builder, name, _I32, pointer, *(_I32(n) for n in extra))
            return context.get_dummy_value()

        return types.void(types.int64), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


sem_init = _libc("sem_init", "Make the 32 bytes at an address a semaphore of this process, at 0.", 0, 0)
sem_post = _libc("sem_post", "Wake one sleeper at a semaphore, now or as soon as it sleeps.")
sem_wait = _libc("sem_wait", "Sleep at a semaphore. Can wake for no reason.")


# --- vectors from and to memory ----------------------------------------------------------------------------------


def _loader(kind: Vector, name: str, doc: str, widen: Callable[[Any, Any], Any] | None = None, raw: Any = None) -> Any:
    def function(typing: Any, pointer: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            value = _load(builder, args[0], args[1], raw or kind.llvm)
            return widen(builder, value) if widen else value

        return kind(pointer, types.int64), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


def _from_bfloat(builder: Any, bits: Any) -> Any:
    wide = builder.zext(bits, I32x16.llvm)
    return builder.bitcast(builder.shl(wide, _constant(_I32, [16] * 16)), _V16)


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
    _from_half,
    ir.VectorType(_I16, _16),
)
load_bf16 = _loader(F32x16, "load_bf16", "16 bfloat16, widened.", _from_bfloat, ir.VectorType(_I16, _16))
load_i8 = _loader(
    F32x16, "load_i8", "16 int8, widened to float32.", lambda b, v: b.sitofp(b.sext(v, I32x16.llvm), _V16), B16.llvm
)
load_u8 = _loader(
    F32x16, "load_u8", "16 uint8, widened to float32.", lambda b, v: b.sitofp(b.zext(v, I32x16.llvm), _V16), B16.llvm
)


@intrinsic
def first_f16(typing: Any, pointer: Any, offset: Any, count: Any) -> Any:
    """Of 16 float16 at a pointer's offset the first `count`, widened; 0 in the other lanes, whatever is in memory."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = _load(builder, args[0], args[1], ir.VectorType(_I16, 16))
        limit = _splat(builder, builder.trunc(args[2], _I32), I32x16)
        valid = builder.icmp_signed("<", _constant(_I32, range(16)), limit)
        bits = builder.select(valid, bits, ir.Constant(bits.type, None))
        return _from_half(builder, bits)

    return F32x16(pointer, types.int64, types.int64), codegen


@intrinsic
def splat_f16(typing: Any, pointer: Any, offset: Any) -> Any:
    """The float16 at a byte offset of a uint8 pointer, widened, 16 times."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _from_half(builder, _splat(builder, _load(builder, args[0], args[1], _I16), Vector(_I16, 16)))

    return F32x16(pointer, types.int64), codegen


@intrinsic
def first_powers(typing: Any, pointer: Any, offset: Any, count: Any) -> Any:
    """Of 16 bytes at an offset the first `count` as 2**(byte - 128); 0 in the other lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        e = builder.zext(_load(builder, args[0], args[1], B16.llvm), I32x16.llvm)
        bits = builder.shl(builder.sub(e, _constant(_I32, [1] * 16)), _constant(_I32, [23] * 16))
        tiny = builder.select(  # below the least exponent of a normal number
            builder.icmp_unsigned("==", e, _constant(_I32, [0] * 16)),
            _constant(_I32, [1 << 21] * 16),
            _constant(_I32, [1 << 22] * 16),
        )
        bits = builder.select(builder.icmp_unsigned("<", e, _constant(_I32, [2] * 16)), tiny, bits)
        limit = _splat(builder, builder.trunc(args[2], _I32), I32x16)
        valid = builder.icmp_signed("<", _constant(_I32, range(16)), limit)
        return builder.bitcast(builder.select(valid, bits, ir.Constant(bits.type, None)), _V16)

    return F32x16(pointer, types.int64, types.int64), codegen


@intrinsic
def bits64(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """The 64 bits at a byte offset, lowest first, as bytes: `value` for a 1, 0 for a 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = builder.bitcast(_load(builder, args[0], args[1], _I64), ir.VectorType(ir.IntType(1), 64))
        value = _splat(builder, builder.trunc(args[2], _I8), B64)
        return builder.select(mask, value, ir.Constant(B64.llvm, None))

    return B64(pointer, types.int64, types.int64), codegen


def _storer(kind: Vector, name: str, doc: str, narrow: Callable[[Any, Any], Any] | None = None) -> Any:
    def function(typing: Any, pointer: Any, offset: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _store(builder, narrow(builder, args[2]) if narrow else args[2], args[0], args[1])
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
    _to_half,
)
store_bits = _storer(
    B64,
    "store_bits",
    "One bit for each of 64 bytes, lowest first: 1 where the byte is not 0. The counterpart of `bits64`.",
    lambda b, v: b.bitcast(b.icmp_unsigned("!=", v, ir.Constant(B64.llvm, None)), _I64),
)


def _nearest(builder: Any, value: Any) -> Any:
    """To the nearest integer, ties to even."""
    return builder.fptosi(_call(builder, "llvm.nearbyint.v16f32", _V16, value), I32x16.llvm)


store_i8 = _storer(
    F32x16, "store_i8", "16 floats within -128..127 as int8, nearest.", lambda b, v: b.trunc(_nearest(b, v), B16.llvm)
)


@intrinsic
def at_least(typing: Any, pointer: Any, offset: Any, limit: Any) -> Any:
    """Of 16 float32 at a pointer's offset, which are >= limit: bit i for lane i."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values = _load(builder, args[0], args[1], _V16)
        found = builder.fcmp_ordered(">=", values, _splat(builder, args[2], F32x16))
        return builder.zext(builder.bitcast(found, _I16), _I64)

    return types.int64(pointer, types.int64, types.float32), codegen


@intrinsic
def lowest_bit(typing: Any, bits: Any) -> Any:
    """The place of the lowest 1 in an int64 that is not 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


# --- vectors from numbers, and back ------------------------------------------------------------------------------


@intrinsic
def zero(typing: Any) -> Any:
    """16 times 0.0."""
    return F32x16(), lambda context, builder, sig, args: ir.Constant(_V16, None)


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
    return F32x16(types.float32), lambda context, builder, sig, args: _splat(builder, args[0], F32x16)


@intrinsic
def splat_i32(typing: Any, value: Any) -> Any:
    """16 times an int32."""
    return I32x16(types.int32), lambda context, builder, sig, args: _splat(builder, args[0], I32x16)


@intrinsic
def splat4(typing: Any, pointer: Any, offset: Any) -> Any:
    """The four bytes at an offset, 16 times."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = _load(builder, args[0], args[1], _I32)
        return builder.bitcast(_splat(builder, word, I32x16), B64.llvm)

    return B64(pointer, types.int64), codegen


def table16(values: Sequence[int]) -> Any:
    """An intrinsic without arguments: these 16 bytes, for `lookup`."""

    def function(typing: Any) -> Any:
        return B16(), lambda context, builder, sig, args: _constant(_I8, [v & 255 for v in values])

    return intrinsic(function)


@intrinsic
def unsigned_f32(typing: Any, value: Any) -> Any:
    """16 bytes, unsigned, as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sitofp(builder.zext(args[0], I32x16.llvm), _V16)

    return F32x16(B16), codegen


@intrinsic
def to_f32(typing: Any, value: Any) -> Any:
    """int32 lanes as float32."""
    return F32x16(I32x16), lambda context, builder, sig, args: builder.sitofp(args[0], _V16)


@intrinsic
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "llvm.fmuladd.v16f32", _V16, *args, flags=("contract",))

    return F32x16(F32x16, F32x16, F32x16), codegen


def _reducer(name: str, doc: str, combine: Callable[[Any, Any, Any], Any]) -> Any:
    def function(typing: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            value, n = args[0], 16
            while n > 1:
                n //= 2
                low = builder.shuffle_vector(value, value, _constant(_I32, range(n)))
                high = builder.shuffle_vector(value, value, _constant(_I32, range(n, 2 * n)))
                value = combine(builder, low, high)
            return builder.extract_element(value, _I32(0))

        return types.float32(F32x16), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


def _maximum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


total = _reducer("total", "The sum of 16 lanes, always in the same order.", lambda b, x, y: b.fadd(x, y))
largest = _reducer("largest", "The largest of 16 lanes.", _maximum)


@intrinsic
def maximum(typing: Any, x: Any, y: Any) -> Any:
    """The larger, lane by lane."""
    return F32x16(F32x16, F32x16), lambda context, builder, sig, args: _maximum(builder, *args)


@intrinsic
def absolute(typing: Any, x: Any) -> Any:
    """|x|, lane by lane."""
    return F32x16(F32x16), lambda context, builder, sig, args: _call(builder, "llvm.fabs.v16f32", _V16, args[0])


@intrinsic
def power_of_two(typing: Any, n: Any) -> Any:
    """2**n for whole n within -126..127."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        exponent = builder.add(_nearest(builder, args[0]), _constant(_I32, [127] * 16))
        return builder.bitcast(builder.shl(exponent, _constant(_I32, [23] * 16)), _V16)

    return F32x16(F32x16), codegen


@intrinsic
def nearest(typing: Any, x: Any) -> Any:
    """The nearest whole number, ties to even."""
    return F32x16(F32x16), lambda context, builder, sig, args: _call(builder, "llvm.nearbyint.v16f32", _V16, args[0])


@intrinsic
def first_or(typing: Any, x: Any, count: Any, other: Any) -> Any:
    """The first `count` lanes of x, and of `other` the rest."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        limit = builder.trunc(args[1], _I32)
        valid = builder.icmp_signed("<", _constant(_I32, range(16)), _splat(builder, limit, I32x16))
        return builder.select(valid, args[0], args[2])

    return F32x16(F32x16, types.int64, F32x16), codegen


@helper
def first(x, count):
    """The first `count` lanes, and 0 in the others, whatever was in them."""
    return first_or(x, count, zero())


# --- rearranging -------------------------------------------------------------------------------------------------


@intrinsic
def join(typing: Any, low: Any, high: Any) -> Any:
    """Two byte vectors of one length, one behind the other."""
    kind = {B32: B64, B16: B32}[low]

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.shuffle_vector(*args, _constant(_I32, range(kind.n)))

    return kind(low, low), codegen


def _quarter(name: str, doc: str, signed: bool) -> Any:
    def function(typing: Any, value: Any, k: Any) -> Any:
        if not isinstance(k, types.IntegerLiteral):
            return None
        start = 16 * k.literal_value

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            part = _half_of(builder, args[0], start, 16)
            wide = builder.sext(part, I32x16.llvm) if signed else builder.zext(part, I32x16.llvm)
            return builder.sitofp(wide, _V16)

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
        return builder.shuffle_vector(args[0], args[0], _constant(_I32, [a] * 8 + [a + 1] * 8))

    return F32x16(F32x16, k), codegen


@intrinsic(prefer_literal=True)
def four(typing: Any, scales: Any, k: Any) -> Any:
    """Lanes 4k to 4k+3, four times each."""
    if not isinstance(k, types.IntegerLiteral):
        return None
    a = 4 * k.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.shuffle_vector(args[0], args[0], _constant(_I32, [a + i // 4 for i in range(16)]))

    return F32x16(F32x16, k), codegen


@intrinsic
def halves(typing: Any, low: Any, high: Any) -> Any:
    """One float32 eight times, then the other eight times."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        low, high = (_splat(builder, a, F32x16) for a in args)
        return builder.shuffle_vector(low, high, _constant(_I32, [*range(8), *range(16, 24)]))

    return F32x16(types.float32, types.float32), codegen


@intrinsic
def doubled(typing: Any, pointer: Any, offset: Any) -> Any:
    """Eight float32 at an offset, each twice in a row."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = _load(builder, args[0], args[1], ir.VectorType(_F32, 8))
        return builder.shuffle_vector(value, value, _constant(_I32, [i // 2 for i in range(16)]))

    return F32x16(pointer, types.int64), codegen


@intrinsic
def lookup(typing: Any, table: Any, index: Any) -> Any:
    """table[index] for each byte of a B64; table B16, index 0..15."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        table, index = args
        if RUNG is Rung.ANY:
            result = ir.Constant(B64.llvm, ir.Undefined)
            for lane in range(64):
                entry = builder.extract_element(table, builder.zext(builder.extract_element(index, _I32(lane)), _I32))
                result = builder.insert_element(result, entry, _I32(lane))
            return result
        n = 64 if RUNG is Rung.VNNI else 32
        name = "llvm.x86.avx512.pshuf.b.512" if RUNG is Rung.VNNI else "llvm.x86.avx2.pshuf.b"
        tables = builder.shuffle_vector(table, table, _constant(_I32, [i % 16 for i in range(n)]))
        parts = [_call(builder, name, tables.type, tables, _half_of(builder, index, at, n)) for at in range(0, 64, n)]
        return parts[0] if n == 64 else builder.shuffle_vector(*parts, _constant(_I32, range(64)))

    return B64(B16, B64), codegen


# --- dot products of bytes: the one place where the rungs differ --------------------------------------------------


def _dot_vnni(builder: Any, sums: Any, w: Any, x: Any) -> Any:
    """sums + w . x in groups of four; w 0..255, x signed."""
    i = I32x16.llvm  # the older of the two signatures that LLVM has had: newer LLVMs understand both
    return _call(builder, "llvm.x86.avx512.vpdpbusd.512", i, sums, builder.bitcast(w, i), builder.bitcast(x, i))


def _dot_avx2(builder: Any, sums: Any, w: Any, x: Any) -> Any:
    """The same for w 0..127 (or 128 with |x| <= 127): pairs of products fit 16 bits."""
    v16, v8 = ir.VectorType(_I16, 16), ir.VectorType(_I32, 8)
    parts = []
    for start in (0, 32):
        a, b = (_half_of(builder, v, start, 32) for v in (w, x))
        pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", v16, a, b)
        parts.append(_call(builder, "llvm.x86.avx2.pmadd.wd", v8, pairs, _constant(_I16, [1] * 16)))
    return builder.add(sums, builder.shuffle_vector(*parts, _constant(_I32, range(16))))


def _dot_any(builder: Any, sums: Any, w: Any, x: Any, *, signed: bool = False) -> Any:
    wide = ir.VectorType(_I16, 64)
    products = builder.mul(builder.sext(w, wide) if signed else builder.zext(w, wide), builder.sext(x, wide))
    products = builder.sext(products, ir.VectorType(_I32, 64))
    for part in range(4):
        lanes = _constant(_I32, range(part, 64, 4))
        sums = builder.add(sums, builder.shuffle_vector(products, products, lanes))
    return sums


def _absolute_bytes(builder: Any, v: Any) -> Any:
    kind = v.type
    negative = builder.icmp_signed("<", v, ir.Constant(kind, None))
    return builder.select(negative, builder.sub(ir.Constant(kind, None), v), v)


def _dot_unsigned(builder: Any, sums: Any, w: Any, x: Any) -> Any:
    build = {Rung.VNNI: _dot_vnni, Rung.AVX2: _dot_avx2, Rung.ANY: _dot_any}[RUNG]
    return build(builder, sums, w, x)


def _dot_signed(builder: Any, sums: Any, w: Any, x: Any) -> Any:
    if RUNG is Rung.ANY:
        return _dot_any(builder, sums, w, x, signed=True)
    negative = builder.icmp_signed("<", w, ir.Constant(w.type, None))
    turned = builder.select(negative, builder.sub(ir.Constant(x.type, None), x), x)
    return _dot_unsigned(builder, sums, _absolute_bytes(builder, w), turned)


def _dotter(name: str, doc: str, build: Callable[..., Any]) -> Any:
    def function(typing: Any, sums: Any, w: Any, x: Any) -> Any:
        return I32x16(I32x16, B64, B64), lambda context, builder, sig, args: build(builder, *args)

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


dot_unsigned = _dotter("dot_unsigned", "sums + w . x, four bytes a lane; w within 0..127, x signed.", _dot_unsigned)
dot_signed = _dotter("dot_signed", "sums + w . x, four bytes a lane; w signed, x within -127..127.", _dot_signed)
